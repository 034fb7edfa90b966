import Locks
import Model

/// Lets one operation on attached images and exports go at a time, in the order of arrival: between the engine's step
/// and its commit nobody else sees or changes what is served.
final class OperationLock: Sendable {
  private struct State {
    var isHeld = false
    var isClosed = false
    /// True goes ahead with the lock, false is refused.
    var waiters: [CheckedContinuation<Bool, Never>] = []
  }

  private enum Entry: Sendable {
    case free, waits
    case refused(DomainError)
  }

  private let limit: Int
  private let state = Lock(State())
  private let idle = ChangeSignal()

  /// `limit`: how many may wait.
  init(limit: Int) { self.limit = limit }

  /// Throws `stopping` after ``close(until:)``, and `queueFull`.
  func alone<Result: Sendable>(_ body: () async throws -> Result) async throws -> Result {
    guard try await enter() else { throw Self.stopping }
    defer { leave() }
    return try await body()
  }

  /// Lets nobody in any more; returns when everybody is out, at the latest at `deadline`.
  func close(until deadline: ContinuousClock.Instant) async {
    let refused = state.withLock { state in
      state.isClosed = true
      defer { state.waiters = [] }
      return state.waiters
    }
    for waiter in refused { waiter.resume(returning: false) }
    while ContinuousClock.now < deadline {
      let seen = idle.version
      guard state.withLock({ $0.isHeld }) else { return }
      await idle.wait(beyond: seen, until: deadline)
    }
  }

  private func enter() async throws -> Bool {
    var refusal: DomainError?
    let goesAhead = await withCheckedContinuation { continuation in
      let entry = state.withLock { state -> Entry in
        if state.isClosed { return .refused(Self.stopping) }
        guard state.isHeld else {
          state.isHeld = true
          return .free
        }
        guard state.waiters.count < limit else {
          return .refused(
            DomainError(
              .queueFull, "\(limit) requests wait for other exports and attached images already",
              remedy: "ask again a little later"))
        }
        state.waiters.append(continuation)
        return .waits
      }
      switch entry {
      case .free: continuation.resume(returning: true)
      case .waits: break
      case .refused(let error):
        refusal = error
        continuation.resume(returning: false)
      }
    }
    if let refusal { throw refusal }
    return goesAhead
  }

  /// Hands the lock to the next one.
  private func leave() {
    let next = state.withLock { state in
      let next = state.waiters.isEmpty ? nil : state.waiters.removeFirst()
      state.isHeld = next != nil
      return next
    }
    next?.resume(returning: true)
    if next == nil { idle.raise() }
  }

  private static var stopping: DomainError {
    DomainError(.stopping, "the server is stopping", remedy: "ask again when it is up")
  }
}
