import Locks
import Model

// Attaching, detaching and exporting take turns for each image or backup: between the engine's step and its commit no
// other operation sees or changes how that one is served. Operations on others go on meanwhile: one that waits for a
// silent storage holds up its own image only.

extension Serving {
  /// Throws `stopping` once the service stops, and `queueFull`.
  func alone<Result: Sendable>(
    with source: ExportSource, _ body: () async throws -> Result
  ) async throws -> Result {
    do {
      return try await turns.withLock(source, body)
    } catch AsyncMutex<ExportSource>.Refusal.closed {
      throw DomainError(.stopping, "the server is stopping", remedy: "ask again when it is up")
    } catch AsyncMutex<ExportSource>.Refusal.full {
      throw DomainError(
        .queueFull, "\(limits.waitingOperations) requests wait for other exports and attached images already",
        remedy: "ask again a little later")
    }
  }

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

  /// Lets no operation in any more; returns when all are out, at the latest at `deadline`.
  func closeTurns(until deadline: ContinuousClock.Instant) async {
    turns.close()
    while transactions.time.instant < deadline {
      let seen = turnsReleased.version
      guard turns.isHeld else { return }
      await turnsReleased.wait(beyond: seen, until: deadline, by: transactions.time)
    }
  }
}
