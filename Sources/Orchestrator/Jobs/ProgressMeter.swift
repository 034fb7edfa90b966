import Model

/// Sums up the progress of a job's legs, and measures its rate.
struct ProgressMeter: Sendable {
  private var legs: [UInt64]
  private var leg = 0
  /// Of the legs that are over.
  private var doneBefore: UInt64 = 0
  private var doneInLeg: UInt64 = 0
  private var last: (instant: ContinuousClock.Instant, done: UInt64)?
  private var rate: Double = 0
  private var shown: JobProgress?

  /// How much of the rate is of the newest interval.
  private static let weight = 0.3

  init(legs: [UInt64]) { self.legs = legs.isEmpty ? [0] : legs }

  mutating func report(done: UInt64, total: UInt64) {
    guard leg < legs.count else { return }
    legs[leg] = total
    doneInLeg = min(done, total)
  }

  /// A leg that didn't come to its end counts for as much as was done of it.
  mutating func finishLeg(whole: Bool) {
    guard leg < legs.count else { return }
    doneBefore += whole ? legs[leg] : doneInLeg
    leg += 1
    doneInLeg = 0
  }

  /// Forgets the rate, e.g. at a pause.
  mutating func rest() {
    last = nil
    rate = 0
  }

  private var done: UInt64 { doneBefore + doneInLeg }

  var progress: JobProgress {
    let total = legs.reduce(0, +)
    let eta = rate >= 1 ? Int(min(Double(total - min(done, total)) / rate, 1e9).rounded(.up)) : nil
    return JobProgress(done: done, total: total, rate: UInt64(rate.rounded()), eta: eta)
  }

  mutating func sample(at instant: ContinuousClock.Instant) -> JobProgress? {
    if let last {
      let seconds = (instant - last.instant) / .seconds(1)
      if seconds > 0 {
        let newest = Double(done - min(last.done, done)) / seconds
        rate = rate == 0 ? newest : rate * (1 - Self.weight) + newest * Self.weight
      }
    }
    last = (instant, done)
    let progress = progress
    guard progress != shown else { return nil }
    shown = progress
    return progress
  }
}
