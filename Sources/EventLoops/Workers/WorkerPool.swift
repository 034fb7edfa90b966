import Glibc
import Locks

/// A few threads for what would hold up a loop: compression, hashing, blocking system calls.
///
/// What is queued is bounded by the callers, each of which waits for its own work. Cancelling a caller doesn't stop
/// its work. After ``shutdown()`` work still runs, on the caller's thread: nothing is refused or dropped.
package final class WorkerPool: Sendable {
  typealias Work = @Sendable () -> Void

  private struct State {
    var queue: [Work] = []
    /// Of `queue`, how many from the front are taken.
    var takenCount = 0
    var isShut = false
    var threads: [Thread] = []

    mutating func take() -> Work? {
      guard takenCount < queue.count else { return nil }
      let work = queue[takenCount]
      queue[takenCount] = {}
      takenCount += 1
      if takenCount == queue.count || takenCount > 1024 {
        queue.removeFirst(takenCount)
        takenCount = 0
      }
      return work
    }
  }

  package let threadCount: Int
  private let state = Lock(State())
  // One signal for each piece of work, and one for each thread at the end.
  private let signals = Semaphore()

  /// Starts the threads.
  /// - Parameter name: what the threads are called in `top -H`.
  package init(threadCount: Int, name: String = "worker") throws(SystemError) {
    precondition(threadCount > 0)
    self.threadCount = threadCount
    for index in 0..<threadCount {
      do throws(SystemError) {
        let thread = try Thread(name: "\(name)-\(index)") { [state, signals] in
          Self.serve(state, signals)
        }
        state.withLock { $0.threads.append(thread) }
      } catch {
        end()
        throw error
      }
    }
  }

  deinit { end() }

  /// Runs `work` on one of the threads; the caller suspends and resumes on its own executor.
  package func run<Result: Sendable>(_ work: @Sendable @escaping () -> Result) async -> Result {
    await withUnsafeContinuation { (continuation: UnsafeContinuation<Result, Never>) in
      submit { continuation.resume(returning: work()) }
    }
  }

  /// Runs `work` on one of the threads, without waiting for it.
  func submit(_ work: @escaping Work) {
    let isAccepted = state.withLock { state in
      if !state.isShut { state.queue.append(work) }
      return !state.isShut
    }
    if isAccepted { signals.signal() } else { work() }
  }

  /// Waits for all that is queued, then ends the threads. Blocks, so it is called from none of them, nor from a loop.
  package func shutdown() { end() }

  private func end() {
    let threads = state.withLock { state in
      state.isShut = true
      defer { state.threads = [] }
      return state.threads
    }
    for _ in threads { signals.signal() }
    for thread in threads { thread.join() }
  }

  private static func serve(_ state: Lock<State>, _ signals: Semaphore) {
    while true {
      signals.wait()
      // Ends only when all work is taken: signals for work come before those for the end.
      guard let work = state.withLock({ $0.take() }) else { return }
      work()
    }
  }
}
