import Foundation
import Model

/// A delete job: the image's bitmap first, then the mark in the row, the files, and the rows. `Backup+Deletion.swift` has
/// the rules.
struct DeletionWork: JobWork {
  let backup: BackupID
  let isPausable = false
  /// Without a write: a backup without files is deleted too.
  let findingOfSuccess: RepositoryFinding? = .reached

  func repository(in catalog: any CatalogReading) throws -> RepositoryID? { try catalog.backup(backup)?.repository }

  func claims(in catalog: any CatalogReading) throws -> [JobClaim] {
    guard let row = try catalog.backup(backup) else { return [] }
    return try JobClaim.backup(backup, isAlone: true, in: catalog)
      + [JobClaim.history(of: row.image, in: row.repository, isAlone: false, catalog)]
  }

  func run(_ context: JobContext) async -> JobEnd {
    do {
      let stored = try context.transactions.read { try deletable(in: $0) }
      try await context.live.checkpoint()
      context.log(.info, "deleting backup \(backup) of '\(stored.imageName)'")
      try await returnCheckpoint(of: stored, context)
      let marked = try await context.transactions.persistently { try await mark(context) }
      do {
        try await deleteFiles(of: stored, context)
      } catch {
        return await cutShort(error, stored, marked, context)
      }
      let result = JobResult.Deleted(backup: backup, image: stored.backup.image, imageName: stored.imageName)
      let (id, job) = (backup, context.job.id)
      return JobEnd(.succeeded, result: .deleted(result)) { transaction in try transaction.forget(id, job: job) }
    } catch {
      return JobEnd(error, of: context.live)
    }
  }

  /// Has the next backup of the line go by its bitmap all the same, where that can be.
  private func returnCheckpoint(of stored: LocatedBackup, _ context: JobContext) async throws {
    guard let order = try context.transactions.read({ try $0.checkpointReturn(of: stored.backup) }) else { return }
    let outcome = await context.engine.returnCheckpoint(
      order, within: context.limits.lookTurn, by: context.transactions.time)
    switch outcome {
    case .returned: context.log(.info, "the image's bitmap counts from backup \(order.parent.backup) now")
    case .unconcerned: break
    case .impossible(let why): context.log(.info, "the next backup compares by hash: \(why)")
    }
  }

  private func deletable(in catalog: any CatalogReading) throws -> LocatedBackup {
    let stored = try catalog.storedBackup(backup)
    try catalog.requireNotExported(backup)
    try catalog.requireNoDependents(of: backup)
    return stored
  }

  /// Begins the deletion. Returns the row's revision.
  private func mark(_ context: JobContext) async throws -> Int {
    let job = context.job.id
    return try await context.transactions.write { transaction in
      var backup = try deletable(in: transaction.catalog).backup
      backup.beginDeletion()
      backup = try transaction.update(backup, job: job)
      return backup.revision
    }
  }

  /// The job's end by `error`, with what the repository says of the backup. `marked`: the row's revision since the
  /// deletion began; a row that another change has touched meanwhile is left alone.
  private func cutShort(
    _ error: any Error, _ stored: LocatedBackup, _ marked: Int, _ context: JobContext
  ) async -> JobEnd {
    let (id, job) = (backup, context.job.id)
    guard let scan = try? await context.engine.scan(stored.location.repository) else {
      context.log(
        .warning, "the repository can't be read, so that the backup stays failed: a rescan tells what is left of it")
      return JobEnd(error, of: context.live)
    }
    let held = HeldBackups(scan)
    if held[id] == nil { context.log(.warning, "the backup is no longer whole: delete it again") }
    return JobEnd(error, of: context.live) { transaction in
      guard var backup = try transaction.catalog.backup(id), backup.revision == marked else { return }
      if let whole = held[id] {
        backup.survive(as: whole)
      } else {
        // Not forgotten yet: there may be files left, and a person who wants to delete them.
        backup.failure = "its deletion was cut short: delete it again"
      }
      try transaction.update(backup, job: job)
    }
  }

  private func deleteFiles(of stored: LocatedBackup, _ context: JobContext) async throws {
    do {
      try await context.engine.delete(stored.location, control: context.live)
    } catch let error as DomainError where stored.backup.state == .failed && Self.saysAbsent(error) {
      context.log(.info, "the repository holds nothing of it")
    }
  }

  /// A failed backup, or a deletion that was cut short, may have left nothing behind.
  private static func saysAbsent(_ error: DomainError) -> Bool {
    [.notFound, .sourceNotFound, .backupNotComplete].contains(error.code)
  }
}

extension BlockEngine {
  /// As far as the image's storage answers in time: a silent one keeps no backup from being deleted.
  func returnCheckpoint(
    _ order: CheckpointReturn, within limit: Duration, by time: any TimeSource
  ) async -> CheckpointReturn.Outcome {
    await BackgroundTasks.result(within: limit, by: time) { await returnCheckpoint(order) }
      ?? .impossible("the storage of \(order.image.source.place) doesn't answer")
  }
}
