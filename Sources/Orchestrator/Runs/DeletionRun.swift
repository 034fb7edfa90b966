import Foundation
import Model

/// A delete job: the files first, then the rows.
///
/// D1. A backup whose deletion was cut short isn't called complete any more, unless the repository still bears it out.
///     A cut of the server itself is found out by recovery.
struct DeletionRun: Sendable {
  private let runner: JobRunner
  private let job: Job
  private let backup: BackupID
  private let live: LiveJob

  init(_ runner: JobRunner, _ job: Job, _ backup: BackupID, _ live: LiveJob) {
    self.runner = runner
    self.job = job
    self.backup = backup
    self.live = live
  }

  func run() async -> JobEnd {
    do {
      let stored = try runner.ledger.read { catalog in
        let stored = try storedBackup(backup, in: catalog)
        try requireNotExported(backup, in: catalog)
        try requireNoDependents(of: backup, in: catalog)
        return stored
      }
      live.log(.info, "deleting backup \(backup) of '\(stored.imageName)'")
      do { try await deleteFiles(of: stored) } catch { return await cutShort(error, stored) }
      let result: JSONValue = .object([
        "backup": .string(backup.description), "image": .string(stored.backup.image.description),
        "imageName": .string(stored.imageName.text),
      ])
      let (id, job) = (backup, job.id)
      return JobEnd(.succeeded, result: result) { catalog, now in
        try Self.forget(id, job: job, in: catalog, at: now)
      }
    } catch {
      return JobEnd(error, of: live)
    }
  }

  private func cutShort(_ error: any Error, _ stored: StoredBackup) async -> JobEnd {
    let held = try? await runner.engine.scan(stored.location.repository).backups
    // What can't be told is left as it was: the files may be untouched.
    guard let held, !held.contains(where: { $0.id == backup && $0.state == .complete }) else {
      return JobEnd(error, of: live)
    }
    live.log(.warning, "the backup is no longer whole: delete it again")
    let (id, job) = (backup, job.id)
    return JobEnd(error, of: live) { catalog, now in
      guard var backup = try catalog.backup(id), backup.state != .failed else { return }
      backup.fail("its deletion was cut short: delete it again", at: now)
      try catalog.announce(.backupChanged, catalog.update(backup), at: now, job: job)
    }
  }

  private func deleteFiles(of stored: StoredBackup) async throws {
    do {
      try await runner.engine.delete(stored.location, control: live)
    } catch let error as DomainError where stored.backup.state == .failed && Self.saysAbsent(error) {
      live.log(.info, "the repository holds nothing of it")
    }
  }

  /// A failed backup may have left nothing behind.
  private static func saysAbsent(_ error: DomainError) -> Bool {
    [.notFound, .sourceNotFound, .backupNotComplete].contains(error.code)
  }

  /// Removes the backup's row, and its chain's if that was the last one. Does nothing if it is gone.
  static func forget(_ id: BackupID, job: JobID?, in catalog: any CatalogWriting, at now: Date) throws {
    guard let backup = try catalog.backup(id) else { return }
    try catalog.delete(id)
    try catalog.announce(.backupDeleted, backup, at: now, job: job)
    let rest = try catalog.backups(BackupFilter(chain: backup.chain), PageRequest(limit: 1))
    if rest.items.isEmpty { try catalog.delete(backup.chain) }
  }
}
