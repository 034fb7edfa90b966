import Foundation
import Model

/// A job that is about to be: its request with every id made, and the rows that come with it.
struct JobDraft: Sendable {
  var request: JobRequest
  var links: JobLinks
  var plan: Plan
  var chains: [Chain] = []
  var backups: [Backup] = []
  /// Bytes of each part of the work, as far as they are known.
  var legs: [UInt64] = []
}

/// Jobs that aren't ended. Bounded by the queue.
func liveJobs(in catalog: any CatalogReading) throws -> [Job] {
  let states = Set(JobState.allCases.filter { !$0.isEnded })
  return try allPages { try catalog.jobs(JobFilter(states: states), $0) }
}

extension JobRequest {
  /// The images that it reads or writes.
  var images: [ImageID] {
    switch self {
    case .backup(let request): request.images
    case .restore(_, .image(let id)): [id]
    case .check(let id, _), .attach(let id, _), .detach(let id): [id]
    case .restore, .verify, .deleteBackup, .rescan: []
    }
  }

  func repository(in catalog: any CatalogReading) throws -> RepositoryID? {
    switch self {
    case .backup(let request): request.repository
    case .rescan(let id): id
    case .verify(let backup, _), .restore(let backup, _), .deleteBackup(let backup):
      try catalog.backup(backup)?.repository
    case .check, .attach, .detach: nil
    }
  }
}

extension BackupService {
  /// Commits a job with everything that it makes, and queues it. `draft` refuses what can't be done.
  func submit(
    _ terms: Terms<Job>, _ draft: @Sendable @escaping (any CatalogReading, Date) throws -> JobDraft
  ) async throws -> Answer<Job> {
    try await answering(terms) { try await submitNew(terms, draft) }
  }

  /// As ``submit(_:_:)``, for those who have looked for a repeat of the request already.
  func submitNew(
    _ terms: Terms<Job>, _ draft: @Sendable @escaping (any CatalogReading, Date) throws -> JobDraft
  ) async throws -> Answer<Job> {
    if terms.dryRun {
      let now = ledger.clock.now()
      return .planned(try ledger.read { try draft($0, now).plan })
    }
    try await queue.takePlace()
    let id = JobID(ULID(at: ledger.clock.now()))
    let lifetime = limits.idempotencyLifetime
    do {
      let (job, legs, claims) = try await ledger.write { catalog, now in
        let draft = try draft(catalog, now)
        let job = try Self.insert(draft, as: id, in: catalog, at: now)
        try Self.record(job, under: terms.idempotency, in: catalog, at: now, lifetime: lifetime)
        return (job, draft.legs, try JobClaim.claims(of: job.request, in: catalog))
      }
      await queue.enter(job, legs: legs, claims: claims)
      return .done(job)
    } catch {
      guard let job = await takeUp(id) else {
        await queue.leavePlace()
        throw error
      }
      return .done(job)
    }
  }

  private static func insert(
    _ draft: JobDraft, as id: JobID, in catalog: any CatalogWriting, at now: Date
  ) throws -> Job {
    let job = Job(id: id, request: draft.request, createdAt: now, links: draft.links)
    try catalog.insert(job)
    for chain in draft.chains { try catalog.insert(chain) }
    for var backup in draft.backups {
      backup.job = id
      try catalog.insert(backup)
      try catalog.announce(.backupCreated, backup, at: now, job: id)
    }
    try catalog.announce(.jobCreated, job, at: now)
    return job
  }

  /// A commit that was told as a failure may have happened: its job must not lie in the catalog without being queued.
  private func takeUp(_ id: JobID) async -> Job? {
    let found = try? ledger.read { catalog in
      try catalog.job(id).map { ($0, try JobClaim.claims(of: $0.request, in: catalog)) }
    }
    guard let (job, claims) = found else { return nil }
    await queue.enter(job, legs: [], claims: claims)
    return job
  }
}
