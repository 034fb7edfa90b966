import Glibc
import Locks

/// Threads for blocking system calls, shared out by what the calls may hang on.
///
/// A call on a network file system whose server is gone, or on a failing disk, blocks for minutes or for good.
///
/// B1. At most ``threadsPerLane`` calls of one lane run at a time; the others wait, in order.
/// B2. Calls of different lanes don't wait for each other: a thread is started for a call that finds none idle.
/// B3. At most ``maximumThreadCount`` threads are there; a thread that is idle for ``idleTime`` ends, but for the first
///     few.
///
/// What is queued is bounded by the callers, each of which waits for its own call. Cancelling a caller doesn't stop its
/// call. After ``shutdown()`` calls still run, on the caller's thread: nothing is refused or dropped.
package final class BlockingCalls: Sendable {
  package typealias Call = @Sendable () -> Void

  package static let threadsPerLane = 4
  package static let maximumThreadCount = 256
  static let idleTime = Duration.seconds(10)

  private struct Lane {
    var runningCount = 0
    var waiting: [Call] = []
  }

  private struct Entry {
    let lane: BlockingLane
    let call: Call
  }

  private struct State {
    /// Those with calls under way.
    var lanes: [BlockingLane: Lane] = [:]
    /// Calls whose lane lets them run, until a thread takes them.
    var ready: [Entry] = []
    var threadCount = 0
    var idleCount = 0
    var isShut = false

    /// Lets the call run, or wait for its lane.
    mutating func enter(_ entry: Entry) {
      var lane = lanes[entry.lane] ?? Lane()
      if lane.runningCount < threadsPerLane {
        lane.runningCount += 1
        ready.append(entry)
      } else {
        lane.waiting.append(entry.call)
      }
      lanes[entry.lane] = lane
    }

    /// Ends a call of the lane; the lane's next one gets its place.
    mutating func leave(_ number: BlockingLane) {
      guard var lane = lanes[number] else { return }
      if lane.waiting.isEmpty {
        lane.runningCount -= 1
      } else {
        ready.append(Entry(lane: number, call: lane.waiting.removeFirst()))
      }
      lanes[number] = lane.runningCount > 0 ? lane : nil
    }

    mutating func take() -> Entry? { ready.isEmpty ? nil : ready.removeFirst() }
  }

  private let state = Lock(State())
  // A signal for each call that an idle thread may take, and for each thread at the end. A thread that finds nothing
  // waits again.
  private let signals = Semaphore()
  private let ended = Semaphore()

  /// Starts the first threads.
  package init() throws(SystemError) {
    do throws(SystemError) {
      for _ in 0..<Self.threadsPerLane { try startThread() }
    } catch {
      shutdown()
      throw error
    }
  }

  deinit { shutdown() }

  /// Runs `call` on one of the lane's threads; the caller suspends and resumes on its own executor.
  package func run<Result: Sendable>(
    in lane: BlockingLane, _ call: @Sendable @escaping () -> Result
  ) async -> Result {
    await withUnsafeContinuation { (continuation: UnsafeContinuation<Result, Never>) in
      submit(in: lane) { continuation.resume(returning: call()) }
    }
  }

  /// Runs `call` on one of the lane's threads, without waiting for it.
  package func submit(in lane: BlockingLane, _ call: @escaping Call) {
    let (isAccepted, needsThread) = state.withLock { state in
      guard !state.isShut else { return (false, false) }
      state.enter(Entry(lane: lane, call: call))
      return (true, state.ready.count > state.idleCount && state.threadCount < Self.maximumThreadCount)
    }
    guard isAccepted else { return call() }
    // Where no thread is to be had, the call is taken by one of those that there are.
    if needsThread { try? startThread() }
    if state.withLock({ !$0.ready.isEmpty && $0.idleCount > 0 }) { signals.signal() }
  }

  /// Waits for all calls, then ends the threads. Blocks, so it is called from none of them, nor from a loop.
  package func shutdown() {
    let threadCount = state.withLock { state in
      defer { state.isShut = true }
      return state.isShut ? 0 : state.threadCount
    }
    for _ in 0..<threadCount { signals.signal() }
    for _ in 0..<threadCount { ended.wait() }
  }

  // MARK: Threads

  private func startThread() throws(SystemError) {
    let isWelcome = state.withLock { state in
      guard !state.isShut, state.threadCount < Self.maximumThreadCount else { return false }
      state.threadCount += 1
      state.idleCount += 1
      return true
    }
    guard isWelcome else { return }
    do throws(SystemError) {
      try Thread(name: "blocking") { [state, signals, ended] in
        if Self.serve(state, signals) { ended.signal() }
      }.detach()
    } catch {
      state.withLock { state in
        state.threadCount -= 1
        state.idleCount -= 1
      }
      throw error
    }
  }

  /// Returns true at the end of all, false if the thread ended for want of work.
  private static func serve(_ state: Lock<State>, _ signals: Semaphore) -> Bool {
    while true {
      let wasSignalled = signals.wait(until: MonotonicTime.now.advanced(by: idleTime))
      var entry = state.withLock { state in
        let entry = state.take()
        if entry != nil { state.idleCount -= 1 }
        return entry
      }
      while let running = entry {
        running.call()
        entry = state.withLock { state in
          state.leave(running.lane)
          let next = state.take()
          if next == nil { state.idleCount += 1 }
          return next
        }
      }
      if let isOver = end(state, wasSignalled) { return isOver }
    }
  }

  /// What ``serve(_:_:)`` returns if an idle thread is to end now.
  private static func end(_ state: Lock<State>, _ wasSignalled: Bool) -> Bool? {
    state.withLock { state in
      guard state.ready.isEmpty else { return nil }
      if state.isShut { return true }
      guard !wasSignalled, state.threadCount > threadsPerLane else { return nil }
      state.threadCount -= 1
      state.idleCount -= 1
      return false
    }
  }
}
