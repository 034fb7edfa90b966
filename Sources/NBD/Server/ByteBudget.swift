/// Lets in only so many bytes at once; later requests wait, in order of arrival. Confined to one loop.
final class ByteBudget {
  private struct Waiter {
    let byteCount: Int
    let continuation: UnsafeContinuation<Void, Never>
  }

  private let limit: Int
  private var taken = 0
  private var waiters: [Waiter] = []

  init(limit: Int) { self.limit = limit }

  /// Whether that much would be let in without waiting.
  func isOpen(for byteCount: Int) -> Bool { waiters.isEmpty && fits(byteCount) }

  /// A wish for more than the limit is let in alone.
  private func fits(_ byteCount: Int) -> Bool { taken == 0 || taken + byteCount <= limit }

  func acquire(_ byteCount: Int) async {
    if tryAcquire(byteCount) { return }
    // Tried again inside, as other tasks may run before the closure does. The task that resumes it later has taken
    // the bytes for it.
    await withUnsafeContinuation { continuation in
      if tryAcquire(byteCount) {
        continuation.resume()
      } else {
        waiters.append(Waiter(byteCount: byteCount, continuation: continuation))
      }
    }
  }

  private func tryAcquire(_ byteCount: Int) -> Bool {
    guard isOpen(for: byteCount) else { return false }
    taken += byteCount
    return true
  }

  func release(_ byteCount: Int) {
    taken -= byteCount
    while let first = waiters.first, fits(first.byteCount) {
      waiters.removeFirst()
      taken += first.byteCount
      first.continuation.resume()
    }
  }
}
