import Logging
import Model

// What a verification, and damage that a reader meets, means for a backup's row, and for those that build on it.
//
// V1. What builds on a damaged backup is damaged, too: none is `complete` above one that is `corrupt`.
// V2. Each is cleared by a proof of its own: every byte compared, at level checksum, with nothing damaged below it.

/// What a verification found of one backup.
struct Verification: Sendable {
  let backup: BackupID
  let level: VerifyLevel
  let report: VerifyReport

  var isSound: Bool { report.findingCount == 0 }

  /// Nil if there is none.
  var damage: String? {
    guard !isSound else { return nil }
    let first = report.findings.first ?? "verification found damage"
    return report.findingCount > 1 ? "\(first) (and \(report.findingCount - 1) more)" : first
  }

  /// Verifies the backup. Throws what keeps it from telling.
  /// - Parameter isInChain: what it builds on was verified right before.
  static func of(
    _ backup: BackupID, _ level: VerifyLevel, isInChain: Bool = false, _ context: JobContext
  ) async throws -> Verification {
    let stored = try context.transactions.read { try $0.storedBackup(backup) }
    context.log(.info, "verifying backup \(backup) of '\(stored.imageName)' at level \(level.rawValue)")
    var report = try await context.engine.verify(
      VerifyOrder(backup: stored.location, level: level, coversTablesBelow: !isInChain), control: context.live)
    if let below = try context.transactions.read({ try $0.damage(below: stored.backup) }) {
      report.findings = Array(([below] + report.findings).prefix(VerifyReport.maximumFindingCount))
      report.findingCount += 1
    }
    for finding in report.findings { context.log(.error, finding) }
    return Verification(backup: backup, level: level, report: report)
  }
}

extension CatalogReading {
  /// Why the backup is damaged whatever its own files hold; nil if what it builds on isn't.
  func damage(below backup: Backup) throws -> String? {
    guard let id = backup.parent, let parent = try self.backup(id), parent.state == .corrupt else { return nil }
    return parent.damageOfDependents
  }
}

extension CatalogTransaction {
  func record(_ verification: Verification, job: JobID) throws {
    guard var backup = try catalog.backup(verification.backup) else { return }
    (backup.verifiedAt, backup.verifyLevel) = (now, verification.level)
    if let damage = verification.damage {
      (backup.state, backup.failure) = (.corrupt, damage)
    } else if backup.state == .corrupt, verification.level == .checksum {
      (backup.state, backup.failure) = (.complete, nil)
    }
    try update(backup, job: job)
    if backup.state == .corrupt { try markDependents(of: backup, job: job) }
  }

  /// What a reader met.
  func record(_ damage: BackupDamage) throws {
    guard var backup = try catalog.backup(damage.backup), backup.state == .complete || backup.state == .expired else {
      return
    }
    (backup.state, backup.failure) = (.corrupt, damage.detail)
    try update(backup)
    try markDependents(of: backup, job: nil)
  }

  /// Ends with the last of them: each is followed once, when it becomes corrupt.
  private func markDependents(of damaged: Backup, job: JobID?) throws {
    var parents = [damaged]
    while let parent = parents.popLast() {
      for id in try catalog.dependents(of: parent.id) {
        guard var backup = try catalog.backup(id), backup.state == .complete || backup.state == .expired else {
          continue
        }
        (backup.state, backup.failure) = (.corrupt, parent.damageOfDependents)
        try update(backup, job: job)
        parents.append(backup)
      }
    }
  }
}

extension BackupService {
  /// Marks what a reader met. What the catalog doesn't take the next reader meets again.
  func note(_ damage: BackupDamage) async {
    do {
      try await transactions.persistently { try await transactions.write { try $0.record(damage) } }
    } catch {
      logger.error(
        "a damaged backup isn't marked", metadata: ["backup": "\(damage.backup)", "error": "\(error)"])
    }
  }
}

extension Backup {
  /// Whether there is something to verify.
  var isStored: Bool {
    switch state {
    case .complete, .corrupt, .expired: true
    case .running, .failed: false
    }
  }

  /// Names this one only: why it is damaged, its own row says.
  fileprivate var damageOfDependents: String { "it builds on backup \(id), which is damaged" }
}
