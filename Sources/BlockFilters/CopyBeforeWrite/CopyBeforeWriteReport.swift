/// What it has cost the guest, so far, that a point in time was open.
package struct CopyBeforeWriteReport: Hashable, Sendable {
  /// Grains whose bytes were copied aside before they changed.
  package internal(set) var copyCount: UInt64 = 0
  package internal(set) var copiedByteCount: UInt64 = 0
  /// Bytes of the grains that were zero, or the backing file's, and cost no copy.
  package internal(set) var rememberedByteCount: UInt64 = 0
  /// Copies that were taken from a read that was under way for a reader of the view.
  package internal(set) var sharedReadCount: UInt64 = 0
  /// Copies that found neither memory nor temp with room.
  package internal(set) var fullCount: UInt64 = 0
  /// How long changes waited for room, all together.
  package internal(set) var throttled: Duration = .zero
  /// Bytes that were read of the source, for readers of the view and for copies.
  package internal(set) var sourceByteCount: UInt64 = 0
  /// How long changes waited for copying aside.
  package internal(set) var waits = WaitHistogram()
  package internal(set) var memoryHighWaterByteCount = 0
  package internal(set) var tempHighWaterByteCount: UInt64 = 0

  package init() {}

  /// Adds what another point cost, on the same image or another.
  package mutating func add(_ other: CopyBeforeWriteReport) {
    copyCount += other.copyCount
    copiedByteCount += other.copiedByteCount
    rememberedByteCount += other.rememberedByteCount
    sharedReadCount += other.sharedReadCount
    fullCount += other.fullCount
    throttled += other.throttled
    sourceByteCount += other.sourceByteCount
    waits.add(other.waits)
    memoryHighWaterByteCount = max(memoryHighWaterByteCount, other.memoryHighWaterByteCount)
    tempHighWaterByteCount = max(tempHighWaterByteCount, other.tempHighWaterByteCount)
  }
}

/// Durations in classes that grow by a quarter of a power of two, from a microsecond on: a quantile is at most 25 % too
/// high.
package struct WaitHistogram: Hashable, Sendable {
  private static let classesPerDoubling = 4

  private var counts: [UInt64] = []
  package private(set) var count: UInt64 = 0
  package private(set) var longest: Duration = .zero

  package init() {}

  package mutating func add(_ wait: Duration) {
    let index = Self.index(of: Self.microseconds(wait))
    while counts.count <= index { counts.append(0) }
    counts[index] += 1
    count += 1
    longest = max(longest, wait)
  }

  package mutating func add(_ other: WaitHistogram) {
    while counts.count < other.counts.count { counts.append(0) }
    for (index, count) in other.counts.enumerated() { counts[index] += count }
    count += other.count
    longest = max(longest, other.longest)
  }

  /// A duration that this part of all waits, from 0 to 1, doesn't exceed; zero if there was no wait.
  package func quantile(_ part: Double) -> Duration {
    var left = Double(count) * part
    for (index, count) in counts.enumerated() where count > 0 {
      left -= Double(count)
      if left <= 0 { return min(longest, .microseconds(Self.upperBound(of: index))) }
    }
    return longest
  }

  private static func microseconds(_ wait: Duration) -> UInt64 {
    UInt64(max(0, wait / .microseconds(1)))
  }

  /// Numbers below the first doubling have classes of their own.
  private static func index(of value: UInt64) -> Int {
    guard value >= UInt64(classesPerDoubling) else { return Int(value) }
    let exponent = UInt64.bitWidth - 1 - value.leadingZeroBitCount
    let quarter = Int(value >> UInt64(exponent - 2)) & (classesPerDoubling - 1)
    return (exponent - 1) * classesPerDoubling + quarter
  }

  private static func upperBound(of index: Int) -> UInt64 {
    guard index >= classesPerDoubling else { return UInt64(index) }
    let (octave, quarter) = index.quotientAndRemainder(dividingBy: classesPerDoubling)
    return (UInt64(classesPerDoubling + quarter + 1) << UInt64(octave - 1)) - 1
  }
}
