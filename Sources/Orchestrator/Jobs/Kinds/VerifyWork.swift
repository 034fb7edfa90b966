import Model

/// A verify job. A damaged backup fails it, as does anything that keeps it from telling; only damage marks the backup.
struct VerifyWork: JobWork {
  let backup: BackupID
  let level: VerifyLevel
  let isPausable = true
  let findingOfSuccess: RepositoryFinding? = .reached

  func repository(in catalog: any CatalogReading) throws -> RepositoryID? { try catalog.backup(backup)?.repository }

  func claims(in catalog: any CatalogReading) throws -> [JobClaim] {
    try JobClaim.backup(backup, isAlone: false, in: catalog)
  }

  func run(_ context: JobContext) async -> JobEnd {
    do {
      return end(try await Verification.of(backup, level, context), context)
    } catch {
      return JobEnd(error, of: context.live)
    }
  }

  private func end(_ verification: Verification, _ context: JobContext) -> JobEnd {
    let report = verification.report
    let result = JobResult.Verified(
      backup: backup, level: level, isSound: verification.isSound,
      findings: Array(report.findings.prefix(context.limits.findingsPerResult)), findingCount: report.findingCount,
      verifiedBytes: report.verifiedBytes)
    let (id, job) = (backup, context.job.id)
    let verdict: JobEnd.Verdict =
      verification.damage.map {
        .failed(
          ProblemDetails(
            DomainError(.backupCorrupt, "backup \(id) is damaged: \($0)", remedy: DomainError.remedyOfDamage)))
      } ?? .succeeded
    return JobEnd(verdict, result: .verified(result)) { try $0.record(verification, job: job) }
  }
}

extension DomainError {
  static let remedyOfDamage = "make a new full backup of the image, and look after the repository's storage"
}
