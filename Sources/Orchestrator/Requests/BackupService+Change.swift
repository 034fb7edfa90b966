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
    _ terms: Terms<Value>, _ body: () async throws -> Answer<Value>
  ) async throws -> Answer<Value> {
    guard let idempotency = terms.idempotency, !terms.dryRun else { return try await body() }
    try keys.begin(idempotency.key, bodyHash: idempotency.bodyHash)
    defer { keys.end(idempotency.key) }
    if let record = try ledger.read({ try $0.idempotencyRecord(idempotency.key) }),
      record.createdAt >= oldestKeptAnswer(at: ledger.clock.now())
    {
      guard record.bodyHash == idempotency.bodyHash else { throw KeysInFlight.reused(idempotency.key) }
      return .repeated(StoredAnswer(status: record.status, headers: record.headers, body: record.body))
    }
    return try await body()
  }

  /// Makes one change, or tells its plan. `plan` throws what `apply` would refuse.
  func change<Value>(
    _ terms: Terms<Value>, plan: (any CatalogReading) throws -> Plan,
    apply: @Sendable @escaping (any CatalogWriting, Date) throws -> Value
  ) async throws -> Answer<Value> {
    if terms.dryRun { return .planned(try ledger.read(plan)) }
    let lifetime = limits.idempotencyLifetime
    return .done(
      try await ledger.write { catalog, now in
        let value = try apply(catalog, now)
        try Self.record(value, under: terms.idempotency, in: catalog, at: now, lifetime: lifetime)
        return value
      })
  }

  /// Stores the answer under its key, and drops the answers that were kept long enough.
  static func record<Value>(
    _ value: Value, under idempotency: IdempotencyGuard<Value>?, in catalog: any CatalogWriting, at now: Date,
    lifetime: Double
  ) throws {
    guard let idempotency else { return }
    let answer = try idempotency.answer(value)
    try catalog.deleteIdempotencyRecords(before: now - lifetime)
    try catalog.insert(
      IdempotencyRecord(
        key: idempotency.key, bodyHash: idempotency.bodyHash, status: answer.status, headers: answer.headers,
        body: answer.body, createdAt: now))
  }

  private func oldestKeptAnswer(at now: Date) -> Date { now - limits.idempotencyLifetime }
}

/// Throws `preconditionFailed` unless the resource still has the revision that the request was made for.
func require(_ expected: Int?, is revision: Int, of what: String) throws(DomainError) {
  guard let expected, expected != revision else { return }
  throw DomainError(
    .preconditionFailed, "\(what) was changed meanwhile: it has revision \(revision), not \(expected)",
    remedy: "get it again, and decide anew")
}
