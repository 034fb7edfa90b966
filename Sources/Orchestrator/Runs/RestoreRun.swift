import Foundation
import Model

/// A restore job. What was checked when it was asked for may have changed since: it is checked again.
struct RestoreRun: Sendable {
  private let runner: JobRunner
  private let job: Job
  private let backup: BackupID
  private let target: RestoreTarget
  private let live: LiveJob

  init(_ runner: JobRunner, _ job: Job, _ backup: BackupID, _ target: RestoreTarget, _ live: LiveJob) {
    self.runner = runner
    self.job = job
    self.backup = backup
    self.target = target
    self.live = live
  }

  func run() async -> JobEnd {
    do {
      let (stored, order, shown) = try runner.ledger.read { try self.order(in: $0) }
      live.log(.info, "restoring backup \(backup) of '\(stored.imageName)'")
      if case .image(let image) = target {
        live.beforeOverwriting { try await mark(image) }
      }
      let report = try await runner.engine.restore(order, control: live)
      live.log(.info, "restored \(report.virtualSize) bytes, of which \(report.writtenBytes) were written")
      let result = JobResult.Restored(
        backup: backup, image: stored.backup.image, imageName: stored.imageName, target: shown,
        virtualSize: report.virtualSize, writtenBytes: report.writtenBytes)
      let target = target
      return JobEnd(.succeeded, result: .restored(result)) { transaction in
        guard case .image(let id) = target, var image = try transaction.catalog.image(id), image.damage != nil else {
          return
        }
        image.damage = nil
        try transaction.update(image, job: live.job)
      }
    } catch {
      return JobEnd(error, of: live)
    }
  }

  private func mark(_ id: ImageID) async throws {
    let (backup, job) = (backup, job.id)
    try await runner.ledger.persistently {
      try await runner.ledger.write { transaction in
        var image = try transaction.catalog.find(id)
        guard image.damage?.job != job else { return }
        image.beginOverwriting(with: backup, job: job, at: transaction.now)
        try transaction.update(image, job: job)
      }
    }
  }

  private func order(
    in catalog: any CatalogReading
  ) throws -> (StoredBackup, RestoreOrder, JobResult.Restored.Target) {
    let stored = try catalog.storedBackup(backup)
    switch target {
    case .newFile(let path, let format):
      let order = RestoreOrder(backup: stored.location, target: .newFile(path: path, format: format))
      return (stored, order, .file(path: path, format: format))
    case .image(let id):
      let image = try catalog.find(id)
      try catalog.requireRestorable(stored.backup, over: image)
      let order = RestoreOrder(backup: stored.location, target: .image(image.location))
      return (stored, order, .image(id, name: image.name))
    case .nbd(let uri, let targetIsZero):
      let order = RestoreOrder(backup: stored.location, target: .nbd(uri: uri, targetIsZero: targetIsZero))
      return (stored, order, .nbd(uri: uri, targetIsZero: targetIsZero))
    }
  }
}
