import Model

/// A backup's row with what is needed to reach its files.
struct LocatedBackup: Sendable {
  var backup: Backup
  var imageName: ResourceName
  var location: StoredBackupLocation
}

/// Finding an entity, or telling that it isn't there.
extension CatalogReading {
  func storedBackup(_ id: BackupID) throws -> LocatedBackup {
    let backup = try find(id)
    let repository = try find(backup.repository)
    guard let chain = try chain(backup.chain) else {
      throw DomainError(
        .notFound, "backup \(id) has no chain \(backup.chain) in the catalog", remedy: "rescan the repository")
    }
    return LocatedBackup(
      backup: backup, imageName: chain.imageName,
      location: StoredBackupLocation(
        repository: repository.location, image: backup.image, chain: backup.chain, sequence: backup.sequence,
        backup: id))
  }

  func find(_ id: ImageID) throws -> Image { try find(.id(id)) }
  func find(_ id: RepositoryID) throws -> Repository { try find(.id(id)) }

  func find(_ reference: Reference<Image>) throws -> Image {
    let image =
      switch reference {
      case .id(let id): try image(id)
      case .name(let name): try image(named: name)
      }
    guard let image else {
      throw DomainError(.notFound, "there is no image '\(reference)'", remedy: "list the images for their names")
    }
    return image
  }

  func find(_ reference: Reference<Repository>) throws -> Repository {
    let repository =
      switch reference {
      case .id(let id): try repository(id)
      case .name(let name): try repository(named: name)
      }
    guard let repository else {
      throw DomainError(
        .notFound, "there is no repository '\(reference)'", remedy: "list the repositories for their names")
    }
    return repository
  }

  func find(_ id: BackupID) throws -> Backup {
    guard let backup = try backup(id) else {
      throw DomainError(
        .notFound, "there is no backup \(id)", remedy: "list the backups; a rescan finds those of a repository")
    }
    return backup
  }

  func find(_ reference: Reference<Export>) throws -> Export {
    let export =
      switch reference {
      case .id(let id): try export(id)
      case .name(let name): try export(named: name)
      }
    guard let export else {
      throw DomainError(.notFound, "there is no export '\(reference)'", remedy: "list the exports for their names")
    }
    return export
  }

  func find(_ id: FleecingID) throws -> Fleecing {
    guard let fleecing = try fleecing(id) else {
      throw DomainError(
        .notFound, "there is no fleecing \(id)", remedy: "list the fleecings; one that has ended is kept for a day")
    }
    return fleecing
  }

  func find(_ id: JobID) throws -> Job {
    guard let job = try job(id) else { throw DomainError(.notFound, "there is no job \(id)") }
    return job
  }
}
