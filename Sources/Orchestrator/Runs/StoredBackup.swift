import Model

/// A backup's row with what is needed to reach its files.
struct StoredBackup: Sendable {
  var backup: Backup
  var imageName: ResourceName
  var location: StoredBackupLocation
}

func storedBackup(_ id: BackupID, in catalog: any CatalogReading) throws -> StoredBackup {
  let backup = try find(id, in: catalog)
  let repository = try find(backup.repository, in: catalog)
  guard let chain = try catalog.chain(backup.chain) else {
    throw DomainError(
      .notFound, "backup \(id) has no chain \(backup.chain) in the catalog", remedy: "rescan the repository")
  }
  return StoredBackup(
    backup: backup, imageName: chain.imageName,
    location: StoredBackupLocation(
      repository: repository.location, image: backup.image, chain: backup.chain, sequence: backup.sequence,
      backup: id))
}

// MARK: Finding, or telling what isn't there

func find(_ id: ImageID, in catalog: any CatalogReading) throws -> Image { try find(.id(id), in: catalog) }
func find(_ id: RepositoryID, in catalog: any CatalogReading) throws -> Repository { try find(.id(id), in: catalog) }

func find(_ reference: Reference<Image>, in catalog: any CatalogReading) throws -> Image {
  let image =
    switch reference {
    case .id(let id): try catalog.image(id)
    case .name(let name): try catalog.image(named: name)
    }
  guard let image else {
    throw DomainError(.notFound, "there is no image '\(reference)'", remedy: "list the images for their names")
  }
  return image
}

func find(_ reference: Reference<Repository>, in catalog: any CatalogReading) throws -> Repository {
  let repository =
    switch reference {
    case .id(let id): try catalog.repository(id)
    case .name(let name): try catalog.repository(named: name)
    }
  guard let repository else {
    throw DomainError(
      .notFound, "there is no repository '\(reference)'", remedy: "list the repositories for their names")
  }
  return repository
}

func find(_ id: BackupID, in catalog: any CatalogReading) throws -> Backup {
  guard let backup = try catalog.backup(id) else {
    throw DomainError(
      .notFound, "there is no backup \(id)", remedy: "list the backups; a rescan finds those of a repository")
  }
  return backup
}

func find(_ reference: Reference<Export>, in catalog: any CatalogReading) throws -> Export {
  let export =
    switch reference {
    case .id(let id): try catalog.export(id)
    case .name(let name): try catalog.export(named: name)
    }
  guard let export else {
    throw DomainError(.notFound, "there is no export '\(reference)'", remedy: "list the exports for their names")
  }
  return export
}

func find(_ id: JobID, in catalog: any CatalogReading) throws -> Job {
  guard let job = try catalog.job(id) else { throw DomainError(.notFound, "there is no job \(id)") }
  return job
}

// MARK: What a backup must be for the work on it

func requireNoDependents(of id: BackupID, in catalog: any CatalogReading) throws {
  let dependents = try catalog.dependents(of: id)
  guard dependents.isEmpty else {
    throw DomainError(
      .backupHasDependents,
      "\(dependents.count) backups depend on \(id): \(dependents.map(\.description).joined(separator: ", "))",
      remedy: "delete them first, newest first")
  }
}

/// Throws `backupNotComplete` and `backupCorrupt` for one that nothing should be read from.
func requireReadable(_ backup: Backup) throws(DomainError) {
  switch backup.state {
  case .running, .failed: throw BackupService.notComplete(backup)
  case .corrupt:
    throw DomainError(
      .backupCorrupt, "backup \(backup.id) is damaged: \(backup.failure ?? "verification said so")",
      remedy: "take another backup of the image, or verify this one again at level checksum")
  case .complete, .expired: break
  }
}

/// The image must be detached, not exported, and as large as the backup.
func requireRestorable(_ backup: Backup, over image: Image, in catalog: any CatalogReading) throws {
  try requireAtRest(image)
  try requireNoExports(of: image, in: catalog)
  guard image.virtualSize == backup.virtualSize else {
    throw DomainError(
      .targetMismatch,
      "image '\(image.name)' has \(image.virtualSize) bytes, backup \(backup.id) has \(backup.virtualSize)",
      remedy: "restore to a new file instead")
  }
}
