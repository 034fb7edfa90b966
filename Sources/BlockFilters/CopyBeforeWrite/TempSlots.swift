/// Which places of the temp hold a grain. The index lives in memory alone.
struct TempSlots {
  /// Places that are joined to one discard at most.
  private static let discardCount = 64

  let count: UInt64
  /// The first place that was never used.
  private var fresh: UInt64 = 0
  /// Free, and still with storage behind them: the first to be used again.
  private var dirty: [UInt64] = []
  /// Free, and without storage.
  private var clean: [UInt64] = []
  private(set) var usedCount: UInt64 = 0
  private(set) var highWaterCount: UInt64 = 0

  init(count: UInt64) { self.count = count }

  /// A free place; nil if there is none.
  mutating func take() -> UInt64? {
    guard let slot = dirty.popLast() ?? clean.popLast() ?? takeFresh() else { return nil }
    usedCount += 1
    highWaterCount = max(highWaterCount, usedCount)
    return slot
  }

  private mutating func takeFresh() -> UInt64? {
    guard fresh < count else { return nil }
    fresh += 1
    return fresh - 1
  }

  mutating func free(_ slot: UInt64) {
    usedCount -= 1
    dirty.append(slot)
  }

  /// Frees a place that got no storage: it is tried again last.
  mutating func freeUnwritten(_ slot: UInt64) {
    usedCount -= 1
    clean.insert(slot, at: 0)
  }

  var hasDirty: Bool { !dirty.isEmpty }

  /// Some of the freed places, for their storage to be given back: neighbours are joined. Nobody gets them meanwhile.
  mutating func takeDirty() -> [Range<UInt64>] {
    let slots = dirty.prefix(Self.discardCount).sorted()
    dirty.removeFirst(slots.count)
    return slots.reduce(into: []) { runs, slot in
      if let last = runs.last, last.upperBound == slot {
        runs[runs.count - 1] = last.lowerBound..<slot + 1
      } else {
        runs.append(slot..<slot + 1)
      }
    }
  }

  mutating func discarded(_ run: Range<UInt64>) { clean += run }
}
