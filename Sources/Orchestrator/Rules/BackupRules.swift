import Model

// What a backup must be, and must not be, for what is to be done with it.

extension Backup {
  /// Throws `backupNotComplete` and `backupCorrupt` for one that nothing should be read from.
  func requireReadable() throws(DomainError) {
    switch state {
    case .running, .failed: throw notComplete
    case .corrupt:
      throw DomainError(
        .backupCorrupt, "backup \(id) is damaged: \(failure ?? "verification said so")",
        remedy: "take another backup of the image, or verify this one again at level checksum")
    case .complete, .expired: break
    }
  }

  var notComplete: DomainError {
    let why = state == .running ? "it is still being made" : failure ?? "it failed"
    return DomainError(
      .backupNotComplete, "backup \(id) isn't complete: \(why)", remedy: "take one in state complete")
  }
}

extension CatalogReading {
  /// Throws `exportInUse` while clients are offered the backup, or what changed since it; or one that builds on it.
  func requireNotExported(_ id: BackupID) throws {
    let comparing = try allPages { try exports(ExportFilter(), $0) }.filter { !$0.changedSince.isEmpty }
    var backups = [id]
    var next = 0
    while next < backups.count {
      let backup = backups[next]
      let exports = try allPages { try self.exports(ExportFilter(backup: backup), $0) }
      guard exports.isEmpty else {
        throw DomainError(
          .exportInUse,
          (backup == id ? "backup \(id) is" : "backup \(backup), which builds on \(id), is")
            + " exported as \(exports.quoted)", remedy: "delete the exports first")
      }
      let compared = comparing.filter { export in export.changedSince.contains { $0.backup == backup } }
      guard compared.isEmpty else {
        throw DomainError(
          .exportInUse, "\(compared.quoted) shows what changed since backup \(backup)",
          remedy: "take it out of the export's contexts, or delete the export")
      }
      backups += try dependents(of: backup)
      next += 1
    }
  }

  func requireNoDependents(of id: BackupID) throws {
    let dependents = try dependents(of: id)
    guard dependents.isEmpty else {
      throw DomainError(
        .backupHasDependents,
        "\(dependents.count) backups depend on \(id): \(dependents.map(\.description).joined(separator: ", "))",
        remedy: "delete them first, newest first")
    }
  }
}
