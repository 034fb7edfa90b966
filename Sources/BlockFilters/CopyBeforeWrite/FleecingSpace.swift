import Locks

/// The bytes that the temps of all images may take together.
package final class FleecingSpace: Sendable {
  private let limitByteCount: UInt64
  private let used = Lock<UInt64>(0)

  package init(limitByteCount: UInt64) { self.limitByteCount = limitByteCount }

  package var usedByteCount: UInt64 { used.withLock { $0 } }

  /// False, with nothing taken, if it would be too much.
  func take(_ byteCount: UInt64) -> Bool {
    used.withLock { used in
      guard used + byteCount <= limitByteCount else { return false }
      used += byteCount
      return true
    }
  }

  func giveBack(_ byteCount: UInt64) { used.withLock { $0 -= byteCount } }
}
