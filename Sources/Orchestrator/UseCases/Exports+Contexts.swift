import Foundation
import Logging
import Model

extension BackupService {
  /// Changes what clients of an export may ask for: those that connect from now on. Throws what the engine says of its
  /// bitmaps, and `backupNotComplete` or `backupCorrupt` for backups to compare it with.
  ///
  /// The engine serves the change first, for only that tells whether it can. What the catalog doesn't take is taken back.
  package func changeExport(
    _ reference: Reference<Export>, _ change: ExportChange,
    _ conditions: ChangeConditions<ExportView> = ChangeConditions()
  ) async throws -> Answer<ExportView> {
    @Sendable func changed(_ catalog: any CatalogReading) throws -> (before: Export, after: Export) {
      let before = try catalog.find(reference)
      try conditions.require(revision: before.revision, of: "export '\(before.name)'")
      let after = change.applied(to: before)
      if case .backup = before.source { try after.bitmaps.requireNone() }
      _ = try catalog.located(after.changedSince, for: after.source)
      return (before, after)
    }
    return try await answering(conditions) {
      if conditions.dryRun { return try await commit(changed, conditions) }
      return try await serving.aloneWithFound({ try transactions.read { try $0.find(reference).source } }) {
        let (before, after) = try transactions.read(changed)
        let isServed = engine.activity(of: before.id) != nil
        // One that isn't served is opened with its new contexts later.
        if isServed, before != after { try await engine.setContexts(try transactions.read { try after.order(in: $0) }) }
        do {
          return try await commit(changed, conditions)
        } catch {
          if isServed, before != after { await takeBack(before) }
          throw error
        }
      }
    }
  }

  private func commit(
    _ changed: @Sendable @escaping (any CatalogReading) throws -> (before: Export, after: Export),
    _ conditions: ChangeConditions<ExportView>
  ) async throws -> Answer<ExportView> {
    try await self.change(conditions) { view in
      Plan(
        action: "change-export", steps: ["offer other contexts to clients that connect from now on"],
        warnings: ["clients that are connected keep what they have"],
        resource: .export(try changed(view.catalog).after))
    } apply: { [engine] transaction in
      let (before, after) = try changed(transaction.catalog)
      let stored = before == after ? before : try transaction.update(after)
      return try ExportView(stored, in: transaction.catalog, engine)
    }
  }

  private func takeBack(_ export: Export) async {
    do {
      try await engine.setContexts(try transactions.read { try export.order(in: $0) })
    } catch {
      logger.error(
        "an export offers contexts that its row doesn't have",
        metadata: ["export": "\(export.name)", "error": "\(error)"])
    }
  }
}
