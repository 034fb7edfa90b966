import Locks
import Model

/// The engine's calls that are under way, and whose jobs they are.
final class CallsInFlight: Sendable {
  private struct State {
    var count = 0
    var jobs: [JobID: Int] = [:]
    var waiters: [UnsafeContinuation<Void, Never>] = []
  }

  private let state = Lock(State())

  func begin(_ job: JobID?) {
    state.withLock { state in
      state.count += 1
      if let job { state.jobs[job, default: 0] += 1 }
    }
  }

  func end(_ job: JobID?) {
    let waiters = state.withLock { state -> [UnsafeContinuation<Void, Never>] in
      state.count -= 1
      if let job, let users = state.jobs[job] { state.jobs[job] = users > 1 ? users - 1 : nil }
      guard state.count == 0 else { return [] }
      defer { state.waiters = [] }
      return state.waiters
    }
    for waiter in waiters { waiter.resume() }
  }

  var count: Int { state.withLock { $0.count } }

  func isLive(_ job: JobID) -> Bool { state.withLock { $0.jobs[job] != nil } }

  /// Returns once no call is under way.
  func waitForNone() async {
    await withUnsafeContinuation { (continuation: UnsafeContinuation<Void, Never>) in
      let isIdle = state.withLock { state in
        if state.count > 0 { state.waiters.append(continuation) }
        return state.count == 0
      }
      if isIdle { continuation.resume() }
    }
  }
}
