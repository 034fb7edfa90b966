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
  /// Throws `exportInUse` while clients are offered the backup, or one that builds on it.
  func requireNotExported(_ id: BackupID) throws {
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
