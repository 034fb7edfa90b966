import BlockCore

/// A home loop for devices in tests: what runs on it interleaves only where it suspends, as on an event loop.
package actor LoopActor {
  package init() {}

  /// Runs `body` here. Several at once, from a task group, interleave at each `await`.
  package func run<Result: Sendable, Failure: Error>(
    _ body: @Sendable (isolated LoopActor) async throws(Failure) -> Result
  ) async throws(Failure) -> Result {
    try await body(self)
  }
}

extension LoopActor: HomeLoop {
  package nonisolated var now: ContinuousClock.Instant { .now }

  package nonisolated func start(_ work: @Sendable @escaping () async -> Void) {
    Task { await run { _ in await work() } }
  }

  package nonisolated func offload(_ work: @Sendable @escaping () -> Void) async { work() }

  package nonisolated func after(_ delay: Duration, _ action: @Sendable @escaping () -> Void) {
    Task {
      try? await Task.sleep(for: delay)
      await run { _ in action() }
    }
  }
}
