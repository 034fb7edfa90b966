/// How fast a copy goes: how many chunks are in flight, and when the next may begin.
///
/// A pure value that is told the time, in seconds on any steady clock. One copy has it for itself.
package protocol CopyPace: Sendable {
  /// Chunks that may be in flight now; from 1 to ``AdaptiveDepth/maximum``.
  var depth: Int { get }

  /// Seconds to wait before more may pass; 0 if it may now.
  /// - Parameter limit: bytes a second; 0 for as many as can be.
  mutating func delay(limit: UInt64, now: Double) -> Double

  /// A chunk of so many bytes begins.
  mutating func begin(byteCount: UInt64, now: Double)

  /// A chunk of so many bytes is done.
  mutating func complete(byteCount: UInt64, now: Double)
}

/// As deep as pays, and as fast as the job's limit lets it.
package struct AdaptivePace: CopyPace {
  private var adaptive: AdaptiveDepth
  private var limit = SpeedLimit()

  package init(now: Double) { adaptive = AdaptiveDepth(now: now) }

  package var depth: Int { adaptive.depth }

  package mutating func delay(limit: UInt64, now: Double) -> Double { self.limit.delay(limit: limit, now: now) }

  package mutating func begin(byteCount: UInt64, now: Double) { limit.pass(byteCount, now: now) }

  package mutating func complete(byteCount: UInt64, now: Double) {
    adaptive.completed(byteCount: byteCount, now: now)
  }
}
