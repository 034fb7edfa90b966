import Foundation
import Locks
import Model

/// The catalog as a value in memory. Each transaction works on a copy, which replaces the state only if the body
/// returns; readers keep the copy they began with.
package final class InMemoryCatalog: BackupCatalog {
  private let state: Lock<InMemoryCatalogState>
  private let writer = Writer()

  package init() { state = Lock(InMemoryCatalogState()) }

  package func read<Result>(_ body: (any CatalogReading) throws -> Result) throws -> Result {
    try body(InMemoryTransaction(state.withLock { $0 }))
  }

  @discardableResult package func write<Result: Sendable>(
    _ body: @Sendable @escaping (any CatalogWriting) throws -> Result
  ) async throws -> Result {
    try await writer.alone { [state] in
      let transaction = InMemoryTransaction(state.withLock { $0 })
      let result = try body(transaction)
      let changed = transaction.state
      state.withLock { $0 = changed }
      return result
    }
  }

  package func close() throws {}

  package var unfinished: [String] { [] }

  /// Runs one body at a time.
  private actor Writer {
    func alone<Result: Sendable>(_ body: @Sendable () throws -> Result) throws -> Result { try body() }
  }
}

/// Everything that a catalog holds.
struct InMemoryCatalogState: Sendable {
  var images: [ImageID: Image] = [:]
  var repositories: [RepositoryID: Repository] = [:]
  var chains: [ChainID: Chain] = [:]
  var backups: [BackupID: Backup] = [:]
  var exports: [ExportID: Export] = [:]
  var fleecings: [FleecingID: Fleecing] = [:]
  var fleecingCheckpoints: [ImageID: [ULID: FleecingCheckpoint]] = [:]
  var jobs: [JobID: Job] = [:]
  var logs: [JobID: [Int: JobLogEntry]] = [:]
  /// In order of id.
  var events: [Event] = []
  var lastEventID: Int64 = 0
  var idempotencyRecords: [IdempotencyKey: IdempotencyRecord] = [:]
}
