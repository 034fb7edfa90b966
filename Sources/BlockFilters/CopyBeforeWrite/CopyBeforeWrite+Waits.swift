import BlockCore

/// How long changes wait for copying aside: measured for the report, and bounded (C6).
struct ChangeWait {
  let range: ByteRange
  let began: ContinuousClock.Instant
}

extension CopyBeforeWrite {
  func beginWait(_ range: ByteRange) -> UInt64 {
    nextWait += 1
    waits[nextWait] = ChangeWait(range: range, began: loop.now)
    setTimer()
    return nextWait
  }

  /// Does nothing if it has ended.
  func endWait(_ number: UInt64) {
    guard let wait = waits.removeValue(forKey: number) else { return }
    let duration = loop.now - wait.began
    for open in points { open.point.report.waits.add(duration) }
  }

  /// One timer, for the oldest wait.
  private func setTimer() {
    guard !isTimerSet, let oldest = waits.values.map(\.began).min() else { return }
    isTimerSet = true
    loop.after(oldest + options.guestWriteTimeout - loop.now) { [weak self] in self?.checkWaits() }
  }

  private func checkWaits() {
    isTimerSet = false
    let latest = loop.now - options.guestWriteTimeout
    let late = waits.filter { $0.value.began <= latest }
    for wait in late.values {
      lose(.timedOut(options.guestWriteTimeout)) { $0.needs(wait.range) }
    }
    // They go on by themselves: no point needs anything of theirs.
    guard late.count < waits.count else { return }
    let next = waits.filter { late[$0.key] == nil }.values.map(\.began).min()
    if let next {
      isTimerSet = true
      loop.after(next + options.guestWriteTimeout - loop.now) { [weak self] in self?.checkWaits() }
    }
  }
}
