import Model

/// What is told of stored backups: where they hold data, and where two of them differ.
extension BackupService {
  /// Throws `backupNotComplete`, `backupCorrupt`.
  package func extents(ofBackup id: BackupID, _ query: StoredExtentQuery) async throws -> ExtentPage {
    try await engine.extents(ofBackup: try readable(id).location, query)
  }

  /// Throws `invalidParameter` unless both are of one image.
  package func differences(
    _ id: BackupID, from other: BackupID, _ query: StoredExtentQuery
  ) async throws -> DifferencePage {
    let (backup, base) = (try readable(id), try readable(other))
    guard backup.backup.image == base.backup.image else {
      throw DomainError(
        .invalidParameter, "backup \(id) is of '\(backup.imageName)', and \(other) of '\(base.imageName)'",
        remedy: "compare two backups of one image")
    }
    return try await engine.differences(backup.location, from: base.location, query)
  }

  private func readable(_ id: BackupID) throws -> LocatedBackup {
    let stored = try transactions.read { try $0.storedBackup(id) }
    try stored.backup.requireReadable()
    return stored
  }
}
