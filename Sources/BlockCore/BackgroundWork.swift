/// Somewhere to run what would hold up a loop: compression, hashing, blocking calls.
///
/// The caller suspends and resumes on its own loop with the result. Cancelling the caller doesn't stop the work.
/// The amount queued is bounded by the callers, each of which waits.
package protocol BackgroundWork: Sendable {
  func run<Result: Sendable>(_ work: @Sendable @escaping () -> Result) async -> Result
}

/// Runs the work where it is asked for: for tests, and where nothing else shares the loop.
package struct InlineWork: BackgroundWork {
  package init() {}

  package func run<Result: Sendable>(_ work: @Sendable @escaping () -> Result) async -> Result {
    work()
  }
}
