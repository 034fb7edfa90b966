import Model

/// A checkpoint of an image: the moment of one of its backups.
package struct CheckpointView: Hashable, Sendable {
  package var backup: Backup
  package var checkpoint: ULID
  package var tracker: TrackerName
  package var repositoryName: ResourceName
}

extension BackupService {
  /// The checkpoints of an image's backups, oldest first.
  package func checkpoints(of reference: Reference<Image>, _ page: PageRequest) throws -> Page<CheckpointView> {
    try transactions.read { catalog in
      try catalog.checkpoints(of: try catalog.find(reference).id, page).mapItems { backups in
        let repositories = try catalog.repositories(Set(backups.map(\.repository)))
        return backups.compactMap { backup in
          guard let checkpoint = backup.checkpoint, let tracker = backup.tracker,
            let repository = repositories[backup.repository]
          else { return nil }
          return CheckpointView(
            backup: backup, checkpoint: checkpoint, tracker: tracker, repositoryName: repository.name)
        }
      }
    }
  }
}
