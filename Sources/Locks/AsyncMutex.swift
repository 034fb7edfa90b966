/// Lets one piece of work at a time go on for each key, in the order of arrival. Tasks wait, threads don't.
///
/// M1. Work on other keys goes on meanwhile: what hangs holds up its own key only.
/// M2. At most `limit` wait, over all keys. What is refused hasn't begun.
/// M3. Once closed it lets nothing in, and refuses what waits; what is under way goes on to its end.
package final class AsyncMutex<Key: Hashable & Sendable>: Sendable {
  package enum Refusal: Error, Equatable {
    case closed
    /// `limit` wait already.
    case full
  }

  private enum Entry: Sendable {
    case free, waits
    case refused(Refusal)
  }

  private struct State {
    /// What waits for each key that is held.
    var held: [Key: [UnsafeContinuation<Refusal?, Never>]] = [:]
    var waitingCount = 0
    var isClosed = false
  }

  private let limit: Int
  private let onRelease: @Sendable () -> Void
  private let state = Lock(State())

  /// `onRelease` is called each time that a key is free again and nothing waits for it.
  package init(limit: Int, onRelease: @escaping @Sendable () -> Void = {}) {
    self.limit = limit
    self.onRelease = onRelease
  }

  /// Throws ``Refusal``, and what `body` throws.
  package func withLock<Result: Sendable>(
    _ key: Key, _ body: () async throws -> Result
  ) async throws -> Result {
    if let refusal = await enter(key) { throw refusal }
    defer { leave(key) }
    return try await body()
  }

  /// Whether work is under way.
  package var isHeld: Bool { state.withLock { !$0.held.isEmpty } }

  package func close() {
    let refused = state.withLock { state in
      state.isClosed = true
      let refused = state.held.values.flatMap(\.self)
      for key in state.held.keys { state.held[key] = [] }
      state.waitingCount = 0
      return refused
    }
    for waiter in refused { waiter.resume(returning: .closed) }
  }

  private func enter(_ key: Key) async -> Refusal? {
    // The decision is made within the closure: the function may change its executor before it.
    await withUnsafeContinuation { continuation in
      switch entry(key, continuation) {
      case .free: continuation.resume(returning: nil)
      case .waits: break
      case .refused(let refusal): continuation.resume(returning: refusal)
      }
    }
  }

  private func entry(_ key: Key, _ continuation: UnsafeContinuation<Refusal?, Never>) -> Entry {
    state.withLock { state in
      if state.isClosed { return .refused(.closed) }
      guard let waiters = state.held[key] else {
        state.held[key] = []
        return .free
      }
      guard state.waitingCount < limit else { return .refused(.full) }
      state.waitingCount += 1
      state.held[key] = waiters + [continuation]
      return .waits
    }
  }

  /// Hands the key to the next one.
  private func leave(_ key: Key) {
    let next = state.withLock { state -> UnsafeContinuation<Refusal?, Never>? in
      guard var waiters = state.held[key], !waiters.isEmpty else {
        state.held[key] = nil
        return nil
      }
      state.waitingCount -= 1
      defer { state.held[key] = waiters }
      return waiters.removeFirst()
    }
    next?.resume(returning: nil)
    if next == nil { onRelease() }
  }
}

/// The key of a mutex that has one only.
package enum SoleKey: Sendable { case sole }

extension AsyncMutex where Key == SoleKey {
  /// As many wait as there are callers.
  package convenience init() { self.init(limit: .max) }

  /// Throws what `body` throws: without a limit, and never closed, nothing is refused.
  package func withLock<Result: Sendable>(_ body: () async throws -> Result) async rethrows -> Result {
    let refusal = await enter(.sole)
    precondition(refusal == nil, "a mutex with one key is never closed")
    defer { leave(.sole) }
    return try await body()
  }
}
