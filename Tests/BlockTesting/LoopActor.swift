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
