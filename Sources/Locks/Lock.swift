import Glibc

/// State that several threads share, reachable only while its mutex is held.
///
/// The project's one lock. It sits on `pthread_mutex_t`, which ThreadSanitizer understands;
/// `Synchronization.Mutex` gives false positives on Linux.
/// The closure must not suspend, call out, or take the same lock again.
package final class Lock<State>: @unchecked Sendable {
  // Safe to share: `state` is touched only between lock and unlock of `mutex`.
  private var state: State
  private let mutex: UnsafeMutablePointer<pthread_mutex_t>

  package init(_ state: sending State) {
    self.state = state
    mutex = .allocate(capacity: 1)
    let result = pthread_mutex_init(mutex, nil)
    precondition(result == 0, "pthread_mutex_init failed: \(result)")
  }

  deinit {
    pthread_mutex_destroy(mutex)
    mutex.deallocate()
  }

  /// Runs `body` alone with the state and returns its result.
  @inline(__always)
  package func withLock<Result, Failure: Error>(
    _ body: (inout State) throws(Failure) -> sending Result
  ) throws(Failure) -> sending Result {
    pthread_mutex_lock(mutex)
    defer { pthread_mutex_unlock(mutex) }
    return try body(&state)
  }
}
