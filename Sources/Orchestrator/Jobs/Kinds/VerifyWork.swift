import Foundation
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
      let stored = try context.transactions.read { try $0.storedBackup(backup) }
      context.log(.info, "verifying backup \(backup) of '\(stored.imageName)' at level \(level.rawValue)")
      let report = try await context.engine.verify(
        VerifyOrder(backup: stored.location, level: level), control: context.live)
      for finding in report.findings { context.log(.error, finding) }
      return end(report, context)
    } catch {
      return JobEnd(error, of: context.live)
    }
  }

  private func end(_ report: VerifyReport, _ context: JobContext) -> JobEnd {
    let isSound = report.findingCount == 0
    let result = JobResult.Verified(
      backup: backup, level: level, isSound: isSound,
      findings: Array(report.findings.prefix(context.limits.findingsPerResult)), findingCount: report.findingCount,
      verifiedBytes: report.verifiedBytes)
    let (id, level, job) = (backup, level, context.job.id)
    let damage = isSound ? nil : Self.damage(report)
    let verdict: JobEnd.Verdict =
      damage.map {
        .failed(
          ProblemDetails(
            DomainError(
              .backupCorrupt, "backup \(id) is damaged: \($0)",
              remedy: "make a new full backup of the image, and look after the repository's storage")))
      } ?? .succeeded
    return JobEnd(verdict, result: .verified(result)) { transaction in
      guard var backup = try transaction.catalog.backup(id) else { return }
      backup.verifiedAt = transaction.now
      backup.verifyLevel = level
      if let damage {
        backup.state = .corrupt
        backup.failure = damage
      } else if backup.state == .corrupt, level == .checksum {
        // Every byte was compared: whatever was found before is gone.
        backup.state = .complete
        backup.failure = nil
      }
      try transaction.update(backup, job: job)
    }
  }

  private static func damage(_ report: VerifyReport) -> String {
    let first = report.findings.first ?? "verification found damage"
    return report.findingCount > 1 ? "\(first) (and \(report.findingCount - 1) more)" : first
  }
}
