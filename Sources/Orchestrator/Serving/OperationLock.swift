import Locks
import Model

/// Lets one operation at a time go on each image or backup that is attached or exported, in the order of arrival:
/// between the engine's step and its commit no other operation sees or changes how that image or backup is served.
///
/// Operations on others go on meanwhile: one that waits for a silent storage holds up its own image only.
final class OperationLock: Sendable {
  private struct State {
    /// The operations that wait for each image or backup that is held. True goes ahead with it, false is refused.
    var held: [ExportSource: [CheckedContinuation<Bool, Never>]] = [:]
    var waitingCount = 0
    var isClosed = false
  }

  private enum Entry: Sendable {
    case free, waits
    case refused(DomainError)
  }

  private let limit: Int
  private let state = Lock(State())
  private let released = ChangeSignal()

  /// `limit`: how many may wait, over all images and backups.
  init(limit: Int) { self.limit = limit }

  /// Throws `stopping` after ``close(until:)``, and `queueFull`.
  func alone<Result: Sendable>(
    with source: ExportSource, _ body: () async throws -> Result
  ) async throws -> Result {
    guard try await enter(source) else { throw Self.stopping }
    defer { leave(source) }
    return try await body()
  }

  /// Whether an operation is under way.
  var isHeld: Bool { state.withLock { !$0.held.isEmpty } }

  /// Lets no operation in any more; returns when all are out, at the latest at `deadline`.
  func close(until deadline: ContinuousClock.Instant) async {
    let refused = state.withLock { state in
      state.isClosed = true
      let refused = state.held.values.flatMap { $0 }
      for source in state.held.keys { state.held[source] = [] }
      state.waitingCount = 0
      return refused
    }
    for waiter in refused { waiter.resume(returning: false) }
    while ContinuousClock.now < deadline {
      let seen = released.version
      guard state.withLock({ !$0.held.isEmpty }) else { return }
      await released.wait(beyond: seen, until: deadline)
    }
  }

  private func enter(_ source: ExportSource) async throws -> Bool {
    var refusal: DomainError?
    let goesAhead = await withCheckedContinuation { continuation in
      switch entry(source, continuation) {
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

  private func entry(_ source: ExportSource, _ continuation: CheckedContinuation<Bool, Never>) -> Entry {
    state.withLock { state in
      if state.isClosed { return .refused(Self.stopping) }
      guard let waiters = state.held[source] else {
        state.held[source] = []
        return .free
      }
      guard state.waitingCount < limit else {
        return .refused(
          DomainError(
            .queueFull, "\(limit) requests wait for other exports and attached images already",
            remedy: "ask again a little later"))
      }
      state.waitingCount += 1
      state.held[source] = waiters + [continuation]
      return .waits
    }
  }

  /// Hands the image or backup to the next operation.
  private func leave(_ source: ExportSource) {
    let next = state.withLock { state -> CheckedContinuation<Bool, Never>? in
      guard var waiters = state.held[source], !waiters.isEmpty else {
        state.held[source] = nil
        return nil
      }
      state.waitingCount -= 1
      defer { state.held[source] = waiters }
      return waiters.removeFirst()
    }
    next?.resume(returning: true)
    if next == nil { released.raise() }
  }

  private static var stopping: DomainError {
    DomainError(.stopping, "the server is stopping", remedy: "ask again when it is up")
  }
}

extension OperationLock {
  /// How often an operation finds that the name in its request means another image or backup by now.
  private static let attempts = 3

  /// Runs `body` alone with what `find` tells. A name may come to mean something else while the operation waits, so
  /// it is looked up again then.
  func aloneWithFound<Result: Sendable>(
    _ find: () throws -> ExportSource, _ body: () async throws -> Result
  ) async throws -> Result {
    for _ in 0..<Self.attempts {
      let source = try find()
      let result = try await alone(with: source) { try find() == source ? try await body() : nil }
      if let result { return result }
    }
    throw DomainError(.imageInUse, "what the name means changes all the time", remedy: "ask by id")
  }
}
