import Foundation
import Model

/// A restore job. What was checked when it was asked for may have changed since: it is checked again.
struct RestoreWork: JobWork {
  let backup: BackupID
  let target: RestoreTarget
  let mode: RestoreMode?
  let isPausable = true
  let findingOfSuccess: RepositoryFinding? = .reached

  var images: [ImageID] { if case .image(let id) = target { [id] } else { [] } }
  var overwrittenImages: [ImageID] { images }

  func repository(in catalog: any CatalogReading) throws -> RepositoryID? { try catalog.backup(backup)?.repository }

  func aftermath(of job: Job, in catalog: any CatalogReading) throws -> Aftermath? {
    try Aftermath(of: job, restoring: backup, to: target, in: catalog)
  }

  func claims(in catalog: any CatalogReading) throws -> [JobClaim] {
    let claims = try JobClaim.backup(backup, isAlone: false, in: catalog)
    switch target {
    // Its links were resolved when it was asked for.
    case .newFile(let path, _):
      return claims + [JobClaim(subject: .path(comparablePath(path)), isAlone: true, words: "the file \(path)")]
    case .image(let id): return claims + [try .image(id, isAlone: true, in: catalog)]
    case .nbd(let uri, _): return claims + [JobClaim(subject: .path(uri), isAlone: true, words: uri)]
    }
  }

  func run(_ context: JobContext) async -> JobEnd {
    do {
      let (stored, order, shown) = try context.transactions.read { try self.order(in: $0) }
      context.log(.info, "restoring backup \(backup) of '\(stored.imageName)'")
      let report = try await context.engine.restore(order, control: control(context))
      context.log(.info, "restored \(report.virtualSize) bytes, of which \(report.writtenBytes) were written")
      let result = JobResult.Restored(
        backup: backup, image: stored.backup.image, imageName: stored.imageName, target: shown,
        virtualSize: report.virtualSize, writtenBytes: report.writtenBytes,
        mode: overwrittenImages.isEmpty ? nil : report.mode)
      let target = target
      return JobEnd(.succeeded, result: .restored(result)) { transaction in
        guard case .image(let id) = target, var image = try transaction.catalog.image(id), image.damage != nil else {
          return
        }
        image.damage = nil
        try transaction.update(image, job: context.job.id)
      }
    } catch {
      return JobEnd(error, of: context.live)
    }
  }

  private func control(_ context: JobContext) -> any JobControl {
    guard case .image(let image) = target else { return context.live }
    return OverwritingControl(live: context.live) { try await mark(image, context) }
  }

  private func mark(_ id: ImageID, _ context: JobContext) async throws {
    let (backup, job) = (backup, context.job.id)
    try await context.transactions.persistently {
      try await context.transactions.write { transaction in
        var image = try transaction.catalog.find(id)
        guard image.damage?.job != job else { return }
        image.beginOverwriting(with: backup, job: job, at: transaction.now)
        try transaction.update(image, job: job)
      }
    }
  }

  private func order(
    in catalog: any CatalogReading
  ) throws -> (LocatedBackup, RestoreOrder, JobResult.Restored.Target) {
    let stored = try catalog.storedBackup(backup)
    switch target {
    case .newFile(let path, let format):
      let order = RestoreOrder(backup: stored.location, target: .newFile(path: path, format: format))
      return (stored, order, .file(path: path, format: format))
    case .image(let id):
      let image = try catalog.find(id)
      try catalog.requireRestorable(stored.backup, over: image)
      let order = RestoreOrder(backup: stored.location, target: .image(image.location), mode: mode ?? .all)
      return (stored, order, .image(id, name: image.name))
    case .nbd(let uri, let targetIsZero):
      let order = RestoreOrder(backup: stored.location, target: .nbd(uri: uri, targetIsZero: targetIsZero))
      return (stored, order, .nbd(uri: uri, targetIsZero: targetIsZero))
    }
  }
}

/// The engine's line to a job that overwrites an image: the row says so before the first byte is overwritten.
private struct OverwritingControl: JobControl {
  let live: LiveJob
  let mark: @Sendable () async throws -> Void

  var job: JobID { live.job }
  var speedLimit: UInt64 { live.speedLimit }

  func report(done: UInt64, total: UInt64) { live.report(done: done, total: total) }
  func log(_ level: JobLogEntry.Level, _ message: String) { live.log(level, message) }
  func checkpoint() async throws { try await live.checkpoint() }
  func willOverwrite() async throws { try await mark() }
}
