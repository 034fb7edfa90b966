import Foundation
import Locks
import Logging
import Model

/// Keeps the fleecings of the catalog in line with those that the engine serves, and ends those whose time is up.
///
/// L1. A fleecing ends in the engine first, then in its row. A row that is `active` without the engine's knowing is
///     broken: the end was begun, and its commit failed.
/// L2. Steps on one fleecing take turns.
/// L3. No fleecing outlives the server: the next start breaks those that are live.
final class LiveFleecings: Sendable {
  private let transactions: CatalogTransactions
  private let engine: any BlockEngine
  private let limits: ServiceLimits
  private let logger: Logger
  private let turns: AsyncMutex<FleecingID>
  private let watcher = Lock<Task<Void, Never>?>(nil)

  init(transactions: CatalogTransactions, engine: any BlockEngine, limits: ServiceLimits, logger: Logger) {
    (self.transactions, self.engine, self.limits, self.logger) = (transactions, engine, limits, logger)
    turns = AsyncMutex(limit: limits.waitingOperations)
  }

  /// Throws `stopping` once the service stops, and `queueFull`.
  func alone<Result: Sendable>(with id: FleecingID, _ body: () async throws -> Result) async throws -> Result {
    do {
      return try await turns.withLock(id, body)
    } catch AsyncMutex<FleecingID>.Refusal.closed {
      throw DomainError(.stopping, "the server is stopping", remedy: "ask again when it is up")
    } catch AsyncMutex<FleecingID>.Refusal.full {
      throw DomainError(
        .queueFull, "\(limits.waitingOperations) requests wait for fleecings already",
        remedy: "ask again a little later")
    }
  }

  /// Ends it, if it is active when its turn comes: what ended meanwhile stays as it is.
  func end(_ id: FleecingID, as end: FleecingEnd) async {
    do {
      try await alone(with: id) {
        guard let fleecing = try transactions.read({ try $0.fleecing(id) }), fleecing.state == .active,
          end != .expired || isOverdue(fleecing)
        else { return }
        await engine.end(id)
        try await transactions.persistently {
          try await transactions.write { transaction in
            guard var row = try transaction.catalog.fleecing(id), row.state == .active else { return }
            row.end(end, at: transaction.now)
            try transaction.update(row)
          }
        }
      }
    } catch {
      logger.error("the catalog doesn't take a fleecing's end", metadata: ["fleecing": "\(id)", "error": "\(error)"])
    }
  }

  // MARK: Watching

  /// Begins to end what expires, and to forget what ended long ago.
  func watch() {
    watcher.withLock { watcher in
      guard watcher == nil else { return }
      watcher = Task { await goOnWatching() }
    }
  }

  func stop() {
    turns.close()
    watcher.withLock { $0 }?.cancel()
  }

  /// Looks after each commit, and when the next one expires.
  private func goOnWatching() async {
    var prunedAt: ContinuousClock.Instant?
    while !Task.isCancelled, !transactions.commits.isClosed {
      let seen = transactions.commits.version
      do {
        let now = transactions.time.instant
        if prunedAt.map({ now - $0 >= limits.fleecingPruneInterval }) ?? true {
          try await prune()
          prunedAt = now
        }
        if let next = try await endOverdue() {
          await transactions.commits.wait(beyond: seen, until: next, by: transactions.time)
        } else {
          await transactions.commits.wait(beyond: seen)
        }
      } catch {
        // A catalog that fails is asked again later.
        try? await transactions.time.sleep(for: limits.lateInterval)
      }
    }
  }

  /// Returns when the next one expires.
  private func endOverdue() async throws -> ContinuousClock.Instant? {
    var next: Date?
    for fleecing in try transactions.read({ try $0.liveFleecings() }) where fleecing.state == .active {
      if isOverdue(fleecing) {
        await end(fleecing.id, as: .expired)
      } else if !engine.fleecings.contains(fleecing.id) {
        await end(fleecing.id, as: .broken(Self.lost))
      } else if let expiry = fleecing.expiresAt {
        next = min(next ?? expiry, expiry)
      }
    }
    guard let next else { return nil }
    let wait = max(0, next.timeIntervalSince(transactions.time.now()))
    return transactions.time.instant + .seconds(wait)
  }

  private func isOverdue(_ fleecing: Fleecing) -> Bool {
    fleecing.expiresAt.map { $0 <= transactions.time.now() } ?? false
  }

  /// Forgets those that ended long ago.
  private func prune() async throws {
    let oldest = transactions.time.now() - limits.endedFleecingLifetime
    let ended = try transactions.read { catalog in
      try allPages { try catalog.fleecings(FleecingFilter(states: Fleecing.State.ended), $0) }
    }
    let over = ended.filter { ($0.endedAt ?? $0.createdAt) < oldest }
    for batch in over.batches(of: limits.mergeBatch) {
      try await transactions.write { transaction in
        for fleecing in batch where try transaction.catalog.fleecing(fleecing.id) != nil {
          try transaction.delete(fleecing)
        }
      }
    }
  }

  // MARK: Starting

  /// Breaks those that the last stop left live.
  func breakAll() async throws {
    let live = try transactions.read { try $0.liveFleecings() }
    guard !live.isEmpty else { return }
    try await transactions.write { transaction in
      for var fleecing in live {
        fleecing.end(.broken(Self.stopped), at: transaction.now)
        try transaction.update(fleecing)
      }
    }
  }

  private static let stopped = ProblemDetails(
    DomainError(
      .pointInTimeLost, "the server stopped, and what the images held at the moment is lost with it",
      remedy: "begin another fleecing"))

  private static let lost = ProblemDetails(
    DomainError(
      .pointInTimeLost, "its views ended, and the catalog couldn't be told why", remedy: "begin another fleecing"))
}
