/// A token bucket: how long to wait before the next bytes, at so many bytes a second.
///
/// A pure value: it is told the time, in seconds on any steady clock. Debts of an earlier limit are forgotten when
/// the limit changes.
package struct SpeedLimit {
  private var bytesPerSecond: UInt64 = 0
  /// When all that was let through is paid for.
  private var paidAt = 0.0

  package init() {}

  /// Seconds to wait before more may pass; 0 if it may now.
  package mutating func delay(limit: UInt64, now: Double) -> Double {
    if limit != bytesPerSecond {
      bytesPerSecond = limit
      paidAt = now
    }
    return limit == 0 ? 0 : max(0, paidAt - now)
  }

  /// Lets `byteCount` bytes pass.
  package mutating func pass(_ byteCount: UInt64, now: Double) {
    guard bytesPerSecond > 0 else { return }
    paidAt = max(paidAt, now) + Double(byteCount) / Double(bytesPerSecond)
  }
}
