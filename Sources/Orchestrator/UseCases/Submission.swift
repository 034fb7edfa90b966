import Foundation
import Model

/// A job that is about to be: its request with every id made, and the rows that come with it.
struct JobDraft: Sendable {
  var request: JobRequest
  var links: JobLinks
  var plan: Plan
  var chains: [Chain] = []
  var backups: [Backup] = []
  var fleecing: Fleecing?
  /// Bytes of each part of the work, as far as they are known.
  var legs: [UInt64] = []
}

extension BackupService {
  /// Commits a job with everything that it makes, and queues it. `draft` refuses what can't be done.
  func submit(
    _ conditions: ChangeConditions<Job>, _ draft: @Sendable @escaping (CatalogView) throws -> JobDraft
  ) async throws -> Answer<Job> {
    try await answering(conditions) { try await submitNew(conditions, draft) }
  }

  /// As ``submit(_:_:)``, for callers that have looked for a repeat of the request already.
  func submitNew(
    _ conditions: ChangeConditions<Job>, _ draft: @Sendable @escaping (CatalogView) throws -> JobDraft
  ) async throws -> Answer<Job> {
    if conditions.dryRun { return .planned(try transactions.view(by: conditions.caller) { try draft($0).plan }) }
    try await queue.takePlace()
    let id = JobID(ULID(at: transactions.time.now()))
    let lifetime = limits.idempotencyLifetime
    do {
      let (job, legs, claims) = try await transactions.write(by: conditions.caller) { transaction in
        let draft = try draft(transaction.view)
        let job = try Self.insert(draft, as: id, in: transaction)
        try transaction.record(job, under: conditions.idempotency, lifetime: lifetime)
        return (job, draft.legs, try job.request.work.claims(in: transaction.catalog))
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

  /// The job's event is the last one: a listener that learns of a job can get all that it makes.
  private static func insert(
    _ draft: JobDraft, as id: JobID, in transaction: CatalogTransaction
  ) throws -> Job {
    for chain in draft.chains { try transaction.insert(chain) }
    for var backup in draft.backups {
      backup.job = id
      try transaction.insert(backup, job: id)
    }
    if let fleecing = draft.fleecing { try transaction.insert(fleecing, job: id) }
    return try transaction.insert(
      Job(id: id, request: draft.request, createdAt: transaction.now, links: draft.links))
  }

  /// A commit that was told as a failure may have happened: its job must not lie in the catalog without being queued.
  private func takeUp(_ id: JobID) async -> Job? {
    let found = try? transactions.read { catalog in
      try catalog.job(id).map { ($0, try $0.request.work.claims(in: catalog)) }
    }
    guard let (job, claims) = found else { return nil }
    await queue.enter(job, legs: [], claims: claims)
    return job
  }
}
