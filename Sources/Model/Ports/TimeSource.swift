import Foundation

/// All time that the service goes by: what it stores and shows, what it waits for, what it measures. Tests bring their
/// own, so that a day passes in a second.
///
/// The catalog's store keeps to the real time instead: ``CatalogDeadline`` is about how long a disk may take.
package protocol TimeSource: Sendable {
  /// What time it is, to the millisecond, which is what is stored. May be set back by the host.
  func now() -> Date
  /// For deadlines and intervals: never goes back.
  var instant: ContinuousClock.Instant { get }
  /// Returns at `deadline`. Throws `CancellationError` when the task is cancelled.
  func sleep(until deadline: ContinuousClock.Instant) async throws
}

extension TimeSource {
  package func sleep(for duration: Duration) async throws { try await sleep(until: instant + duration) }
}

/// The host's clocks.
package struct SystemTime: TimeSource {
  package init() {}

  package func now() -> Date {
    Date(timeIntervalSince1970: (Date().timeIntervalSince1970 * 1000).rounded(.down) / 1000)
  }

  package var instant: ContinuousClock.Instant { .now }

  package func sleep(until deadline: ContinuousClock.Instant) async throws {
    try await Task.sleep(until: deadline, clock: .continuous)
  }
}
