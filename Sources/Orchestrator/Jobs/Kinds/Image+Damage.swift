import Foundation
import Model

// How it shows that a restore over an image didn't come to its end.
//
// M1. The image's row says `damaged` before the first byte is overwritten, and until a restore over it has succeeded or
//     a person says that the image is good.
// M2. A job that was stopped, by whatever means, says in its error what it left behind.
// M3. A backup of a damaged image, or of one that stands on a damaged image, says that it is a mixture.

extension Image {
  /// Marks the image before `job` overwrites it. What was a mixture before is one since then.
  mutating func beginOverwriting(with backup: BackupID, job: JobID, at now: Date) {
    damage = Damage(
      since: damage?.since ?? now,
      why:
        "a restore of backup \(backup) over it began and hasn't succeeded: the image holds a mixture of what it held "
        + "and of the backup", job: job)
  }

  /// What a plan warns of.
  var damageWarnings: [String] {
    damage.map { ["image '\(name)' is damaged since \(Timestamp.text(of: $0.since)): \($0.why)"] } ?? []
  }
}

/// What a job that was stopped left behind, and what a person can do about it.
struct Aftermath: Sendable {
  private let words: String

  private static let remedy = "restore over it again before using it"

  /// Nil if the job left nothing that is worth a word.
  init?(
    of job: Job, restoring backup: BackupID, to target: RestoreTarget, in catalog: any CatalogReading
  ) throws {
    switch target {
    case .newFile: return nil
    case .image(let id):
      guard let image = try catalog.image(id), image.damage?.job == job.id else { return nil }
      words = "image '\(image.name)' now holds a mixture of what it held and of backup \(backup)"
    case .nbd(let uri, _):
      // No row keeps whether the first byte was overwritten.
      guard job.startedAt != nil else { return nil }
      words = "\(uri) may hold a mixture of what it held and of backup \(backup)"
    }
  }

  /// What several parts of one job left behind; nil if none left anything.
  init?(_ parts: [Aftermath]) {
    guard !parts.isEmpty else { return nil }
    words = parts.map(\.words).joined(separator: "; ")
  }

  func added(to problem: ProblemDetails) -> ProblemDetails {
    ProblemDetails(
      DomainError(
        problem.code, "\(problem.detail); \(words)",
        remedy: [problem.remedy, Self.remedy].compactMap { $0 }.joined(separator: "; ")))
  }

  /// Writes it into the job's log, where no work does so any more.
  func log(to job: JobID, in transaction: CatalogTransaction) throws {
    let last = try allPages { try transaction.catalog.jobLog(job, $0) }.last?.sequence ?? 0
    try transaction.append(
      JobLogEntry(sequence: last + 1, at: transaction.now, level: .error, message: "\(words): \(Self.remedy)"), to: job)
  }
}

extension Job {
  /// Ends the job because the server stops, or has stopped.
  mutating func interrupt(in transaction: CatalogTransaction) throws {
    let aftermath = try request.work.aftermath(of: self, in: transaction.catalog)
    try aftermath?.log(to: id, in: transaction)
    state = .interrupted
    error = aftermath?.added(to: .interrupted) ?? .interrupted
    finishedAt = transaction.now
    (waitingFor, pausedUntil) = (nil, nil)
    (progress.rate, progress.eta) = (0, nil)
  }
}

extension BackupService {
  /// Takes the image for a good one again: a person says so, by its name. Throws `confirmationRequired`, and `imageInUse`
  /// while a restore overwrites it.
  package func clearDamage(
    of reference: Reference<Image>, confirm: String?, _ conditions: ChangeConditions<Image> = ChangeConditions()
  ) async throws -> Answer<Image> {
    let cleared: @Sendable (any CatalogReading) throws -> Image = { catalog in
      var image = try catalog.find(reference)
      try conditions.require(revision: image.revision, of: "image '\(image.name)'")
      if !conditions.dryRun {
        try image.requireConfirmation(confirm, because: "this takes image '\(image.name)' for a good one again")
      }
      for job in try catalog.liveJobs()
      where job.state != .queued && job.request.work.overwrittenImages.contains(image.id) {
        throw DomainError(
          .imageInUse, "the restore job \(job.id) overwrites image '\(image.name)'", remedy: "wait for it, or cancel it"
        )
      }
      image.damage = nil
      return image
    }
    return try await answering(conditions) {
      try await change(conditions) { view in
        let image = try cleared(view.catalog)
        return Plan(
          action: "clear-damage", steps: ["take image '\(image.name)' for a good one again"],
          resource: .clearedImage(image.name))
      } apply: { transaction in
        let image = try cleared(transaction.catalog)
        guard try transaction.catalog.image(image.id) != image else { return image }
        let stored = try transaction.update(image)
        return stored
      }
    }
  }
}
