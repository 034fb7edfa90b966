import Foundation
import Model

// How every change is made.
//
// C1. A change, its events and its idempotency record commit in one transaction, or none of them does.
// C2. A repeated request is answered from the record before anything is checked: its own effects don't refuse it.
// C3. A dry run runs the checks of the change on a view of the catalog, and writes nothing. It asks for no `confirm`: its
//     plan is what a person reads before confirming.

extension BackupService {
  /// Answers a repeat of a request from its record; else does `body`, while no other request has the key.
  func answering<Value>(
    _ conditions: ChangeConditions<Value>, _ body: () async throws -> Answer<Value>
  ) async throws -> Answer<Value> {
    guard let idempotency = conditions.idempotency, !conditions.dryRun else { return try await body() }
    try keys.begin(idempotency.key, bodyHash: idempotency.bodyHash)
    defer { keys.end(idempotency.key) }
    if let record = try transactions.read({ try $0.idempotencyRecord(idempotency.key) }),
      record.createdAt >= oldestKeptAnswer(at: transactions.time.now())
    {
      guard record.bodyHash == idempotency.bodyHash else { throw KeysInFlight.reused(idempotency.key) }
      return .repeated(KeptAnswer(record.answer))
    }
    return try await body()
  }

  /// Makes one change, or tells its plan. `plan` throws what `apply` would refuse.
  func change<Value>(
    _ conditions: ChangeConditions<Value>, plan: (CatalogView) throws -> Plan,
    apply: @Sendable @escaping (CatalogTransaction) throws -> Value
  ) async throws -> Answer<Value> {
    if conditions.dryRun { return .planned(try transactions.view(by: conditions.caller, plan)) }
    let lifetime = limits.idempotencyLifetime
    return .done(
      try await transactions.write(by: conditions.caller) { transaction in
        let value = try apply(transaction)
        try transaction.record(value, under: conditions.idempotency, lifetime: lifetime)
        return value
      })
  }

  private func oldestKeptAnswer(at now: Date) -> Date { now - limits.idempotencyLifetime }
}

extension CatalogTransaction {
  /// Stores the answer under its key.
  func record<Value>(_ value: Value, under idempotency: IdempotencyGuard<Value>?, lifetime: Double) throws {
    guard let idempotency else { return }
    let answer = try idempotency.answer(value)
    let record = IdempotencyRecord(
      key: idempotency.key, bodyHash: idempotency.bodyHash, answer: answer.text, createdAt: now)
    try insert(record, lifetime: lifetime)
  }
}

extension ChangeConditions {
  /// Throws `preconditionFailed` unless the resource still has the revision that the request was made for.
  func require(revision: Int, of what: String) throws(DomainError) {
    guard let expectedRevision, expectedRevision != revision else { return }
    throw DomainError(
      .preconditionFailed, "\(what) was changed meanwhile: it has revision \(revision), not \(expectedRevision)",
      remedy: "get it again, and decide anew")
  }
}
