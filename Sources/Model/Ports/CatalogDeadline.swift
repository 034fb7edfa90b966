import Synchronization

/// Until when the changes of one request, or of the stop, wait for the catalog: for their turn, and for a lock that
/// another program holds. One deadline for all of them together; each gets a moment even if it has passed.
///
/// It holds for the calls inside `wait` and ends with it. A task that was started inside and goes on is bound by it
/// no longer: a job that a request has started.
package final class CatalogDeadline: Sendable {
  /// What one request gets.
  package static let ofRequest = Duration.seconds(10)

  @TaskLocal private static var scope: CatalogDeadline?

  private let instant: ContinuousClock.Instant
  private let isOver = Atomic<Bool>(false)

  private init(_ instant: ContinuousClock.Instant) { self.instant = instant }

  /// Nil where no client waits for an answer.
  package static var current: ContinuousClock.Instant? {
    guard let scope, !scope.isOver.load(ordering: .acquiring) else { return nil }
    return scope.instant
  }

  package static var hasPassed: Bool { current.map { ContinuousClock.now >= $0 } ?? false }

  package static func wait<Result>(
    until instant: ContinuousClock.Instant, _ body: () async throws -> Result
  ) async rethrows -> Result {
    let scope = CatalogDeadline(instant)
    defer { scope.isOver.store(true, ordering: .releasing) }
    return try await $scope.withValue(scope, operation: body)
  }
}
