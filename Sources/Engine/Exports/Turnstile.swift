import Locks

/// Lets one piece of work at a time through, in the order of arrival. As many wait as there are callers.
final class Turnstile: Sendable {
  private struct State {
    var isTaken = false
    var waiters: [UnsafeContinuation<Void, Never>] = []
  }

  private let state = Lock(State())

  func pass<Result: Sendable>(_ work: () async throws -> Result) async rethrows -> Result {
    await enter()
    defer { leave() }
    return try await work()
  }

  private func enter() async {
    await withUnsafeContinuation { (continuation: UnsafeContinuation<Void, Never>) in
      let isFree = state.withLock { state in
        if state.isTaken { state.waiters.append(continuation) }
        defer { state.isTaken = true }
        return !state.isTaken
      }
      if isFree { continuation.resume() }
    }
  }

  private func leave() {
    let next = state.withLock { state -> UnsafeContinuation<Void, Never>? in
      if state.waiters.isEmpty {
        state.isTaken = false
        return nil
      }
      return state.waiters.removeFirst()
    }
    next?.resume()
  }
}
