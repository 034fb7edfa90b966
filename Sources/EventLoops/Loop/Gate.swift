import Glibc
import Locks

/// Counts the bodies that `run` has on the loops. Once it is shut it lets in only calls from bodies that are inside
/// already and go on to another loop: what is under way can come to its end.
final class Gate: Sendable {
  private struct State {
    var isShut = false
    var insideCount = 0
    /// The pthread_t of each loop.
    var loopThreads: Set<UInt> = []

    /// Whether this thread runs what is inside.
    var isInside: Bool { insideCount > 0 && loopThreads.contains(UInt(pthread_self())) }
  }

  private let state = Lock(State())
  /// Signalled once, when the gate is shut and no body is inside.
  let empty = Semaphore()

  func enter() throws(SystemError) {
    let entered = state.withLock { state in
      let isWelcome = !state.isShut || state.isInside
      if isWelcome { state.insideCount += 1 }
      return isWelcome
    }
    guard entered else { throw .shutDown }
  }

  /// Notes that the calling thread is a loop's.
  func addLoopThread() { state.withLock { _ = $0.loopThreads.insert(UInt(pthread_self())) } }

  /// The calling thread is about to end, and its number may go to another.
  func removeLoopThread() { state.withLock { _ = $0.loopThreads.remove(UInt(pthread_self())) } }

  func leave() {
    let isLast = state.withLock { state in
      state.insideCount -= 1
      return state.isShut && state.insideCount == 0
    }
    if isLast { empty.signal() }
  }

  func shut() {
    let isEmpty = state.withLock { state in
      let isFirst = !state.isShut
      state.isShut = true
      return isFirst && state.insideCount == 0
    }
    if isEmpty { empty.signal() }
  }
}
