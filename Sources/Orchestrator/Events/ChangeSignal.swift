import Locks
import Model

/// A growing number that tasks can wait on. Raising it wakes them all.
final class ChangeSignal: Sendable {
  private struct State {
    var version: UInt64 = 0
    var isClosed = false
    var nextTicket: UInt64 = 0
    var waiters: [UInt64: CheckedContinuation<Void, Never>] = [:]

    mutating func takeWaiters() -> [CheckedContinuation<Void, Never>] {
      defer { waiters = [:] }
      return Array(waiters.values)
    }
  }

  private let state = Lock(State())

  var version: UInt64 { state.withLock { $0.version } }
  var isClosed: Bool { state.withLock { $0.isClosed } }

  func raise() {
    let waiters = state.withLock { state in
      state.version += 1
      return state.takeWaiters()
    }
    for waiter in waiters { waiter.resume() }
  }

  /// Wakes all waiting tasks for the last time: none waits from here on.
  func close() {
    let waiters = state.withLock { state in
      state.isClosed = true
      return state.takeWaiters()
    }
    for waiter in waiters { waiter.resume() }
  }

  /// Returns when the version isn't `seen`, when closed, or when the task is cancelled.
  func wait(beyond seen: UInt64) async { await wait(beyond: seen, deadline: nil) }

  /// As ``wait(beyond:)``, at the latest at `deadline`.
  func wait(beyond seen: UInt64, until deadline: ContinuousClock.Instant, by time: any TimeSource) async {
    await wait(beyond: seen, deadline: (deadline, time))
  }

  private func wait(beyond seen: UInt64, deadline: (instant: ContinuousClock.Instant, time: any TimeSource)?) async {
    let ticket = state.withLock { state in
      state.nextTicket += 1
      return state.nextTicket
    }
    // A timer that fires before the waiter stands below finds no waiter, but then the deadline has passed there too.
    let timer = deadline.map { deadline in
      Task {
        try await deadline.time.sleep(until: deadline.instant)
        release(ticket)
      }
    }
    await withTaskCancellationHandler {
      await withCheckedContinuation { continuation in
        let stands = state.withLock { state in
          guard state.version == seen, !state.isClosed, !Task.isCancelled else { return false }
          if let deadline, deadline.time.instant >= deadline.instant { return false }
          state.waiters[ticket] = continuation
          return true
        }
        if !stands { continuation.resume() }
      }
    } onCancel: {
      release(ticket)
    }
    timer?.cancel()
  }

  private func release(_ ticket: UInt64) {
    state.withLock { $0.waiters.removeValue(forKey: ticket) }?.resume()
  }
}
