import NBD

/// As fast as the guest's requests leave room for.
///
/// No more than one request in a hundred may take longer than the limit. Where more do the copy goes half as fast, and
/// where fewer do half as fast again. It begins slowly. A guest that rests lets it go, and one that is slow all by itself
/// doesn't stop it: there is a slowest rate.
package struct GuestPace: CopyPace {
  /// How long a guest's requests may take.
  package enum Limit: Sendable {
    case microseconds(Double)
    /// So many times what they took before: told by those before, or, if these were too few, by the first that are seen.
    case times(Double, before: LatencyHistogram)
  }

  /// Bytes a second.
  package static let slowest = 1e6
  package static let first = 32e6
  /// From this rate on nothing is gained by holding back.
  private static let fastest = 16e9
  /// So many requests are looked at together, or those of so many seconds if they are fewer.
  private static let requestCount: UInt64 = 200
  private static let longestLook = 1.0
  private static let shortestLook = 0.1
  /// Fewer than these tell nothing.
  private static let fewest: UInt64 = 20
  /// As much as this of a chunk may be in flight for each.
  private static let ratePerChunk = 64e6

  private var inner: AdaptivePace
  private var own = SpeedLimit()
  private let total: @Sendable () -> LatencyHistogram
  private let slowedDown: @Sendable (_ microseconds: Double) -> Void
  private var limit: Double?
  private let factor: Double
  private var seen: LatencyHistogram
  private var lookedAt: Double
  private var passedByteCount: UInt64 = 0
  private var isSlowedDown = false
  /// Bytes a second that may pass now.
  package private(set) var rate = Self.first

  /// - Parameters:
  ///   - total: of all requests that were answered so far.
  ///   - slowedDown: told the limit when it slows the copy down for the first time.
  package init(
    _ limit: Limit, now: Double, total: @escaping @Sendable () -> LatencyHistogram,
    slowedDown: @escaping @Sendable (_ microseconds: Double) -> Void = { _ in }
  ) {
    inner = AdaptivePace(now: now)
    lookedAt = now
    self.total = total
    self.slowedDown = slowedDown
    seen = total()
    switch limit {
    case .microseconds(let microseconds): (self.limit, factor) = (microseconds, 1)
    case .times(let factor, let before):
      self.factor = factor
      self.limit = before.count >= Self.requestCount ? before.microseconds(share: 0.99).map { $0 * factor } : nil
    }
  }

  package var depth: Int { min(inner.depth, max(1, Int(rate / Self.ratePerChunk))) }

  package mutating func delay(limit: UInt64, now: Double) -> Double {
    look(now)
    return max(inner.delay(limit: limit, now: now), own.delay(limit: UInt64(rate), now: now))
  }

  package mutating func begin(byteCount: UInt64, now: Double) {
    inner.begin(byteCount: byteCount, now: now)
    own.pass(byteCount, now: now)
  }

  package mutating func complete(byteCount: UInt64, now: Double) {
    inner.complete(byteCount: byteCount, now: now)
    passedByteCount += byteCount
  }

  private mutating func look(_ now: Double) {
    let duration = now - lookedAt
    guard duration >= Self.shortestLook else { return }
    let all = total()
    let recent = all.subtracting(seen)
    let count = recent.count
    guard count >= Self.requestCount || duration >= Self.longestLook else { return }
    let passed = Double(passedByteCount) / duration
    (seen, lookedAt, passedByteCount) = (all, now, 0)
    guard count >= Self.fewest else { return faster(passed) }
    guard let limit else {
      self.limit = recent.microseconds(share: 0.99).map { $0 * factor }
      return
    }
    if recent.count(above: limit) * 100 <= count { return faster(passed) }
    rate = max(Self.slowest, min(rate, max(passed, Self.slowest)) / 2)
    if !isSlowedDown { slowedDown(limit) }
    isSlowedDown = true
  }

  /// Only where the rate was what held the copy up.
  private mutating func faster(_ passed: Double) {
    if passed * 2 >= rate { rate = min(Self.fastest, rate * 1.5) }
  }
}
