import Model

/// A backup of one or several images, see ``BackupRun``.
struct BackupWork: JobWork {
  let request: BackupJobRequest
  let isPausable = true
  let findingOfSuccess: RepositoryFinding? = .written

  var speedLimit: UInt64 { request.speedLimit }
  var images: [ImageID] { request.images }

  func repository(in catalog: any CatalogReading) -> RepositoryID? { request.repository }

  func claims(in catalog: any CatalogReading) throws -> [JobClaim] {
    let histories =
      request.kind == .copy
      ? [] : try request.images.map { try JobClaim.history(of: $0, in: request.repository, isAlone: true, catalog) }
    return try request.images.map { try JobClaim.image($0, isAlone: false, in: catalog) } + histories
      + [JobClaim.repository(request.repository, isAlone: false, in: catalog)]
  }

  func run(_ context: JobContext) async -> JobEnd { await BackupRun(context: context, request: request).run() }

  func giveUp(_ job: JobID, why: String, in transaction: CatalogTransaction) throws {
    for id in request.backups {
      guard var backup = try transaction.catalog.backup(id), backup.state == .running else { continue }
      backup.fail(why, at: transaction.now)
      try transaction.update(backup, job: job)
    }
  }
}
