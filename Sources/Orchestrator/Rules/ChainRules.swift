import Model

// What a backup builds on, as far as the catalog tells. The engine decides, from what the repository holds.

/// What a backup will most likely be: shown by a dry run, and in its row until its moment.
struct BackupForecast {
  let kind: BackupKind
  let chain: ChainID
  let sequence: Int
  /// The row of the chain, if it begins one.
  let newChain: Chain?
  private let parent: BackupID?

  init(
    of image: Image, _ requested: RequestedBackupKind, into repository: RepositoryID, tracker: TrackerName,
    in view: CatalogView
  ) throws {
    let newest = try view.catalog.newestBackup(of: image.id, in: repository, tracker: tracker)
    switch (requested, newest) {
    case (.incremental, let newest?), (.auto, let newest?): (kind, parent) = (.incremental, newest.id)
    case (.differential, let newest?): (kind, parent) = (.differential, newest.id)
    case (.copy, _): (kind, parent) = (.copy, nil)
    case (.full, _), (_, nil): (kind, parent) = (.full, nil)
    }
    if let newest, parent != nil {
      (chain, sequence, newChain) = (newest.chain, newest.sequence + 1, nil)
    } else {
      let made = Chain(
        id: ChainID(ULID(at: view.now)), image: image.id, imageName: image.name, repository: repository,
        createdAt: view.now)
      (chain, sequence, newChain) = (made.id, 0, made)
    }
  }

  /// E.g. "incremental in the chain of backup …".
  var words: String { parent.map { "\(kind.rawValue) in the chain of backup \($0)" } ?? kind.rawValue }
}

extension CatalogReading {
  /// How the tracker of the backup's image can do without the backup; nil where there is no image, or nothing to count
  /// from.
  func checkpointReturn(of backup: Backup) throws -> CheckpointReturn? {
    guard backup.checkpoint != nil, let tracker = backup.tracker, let parentID = backup.parent,
      let parent = try self.backup(parentID), parent.state == .complete, let image = try image(backup.image)
    else { return nil }
    return CheckpointReturn(
      backup: try storedBackup(backup.id).location, parent: try storedBackup(parentID).location, image: image.location,
      tracker: tracker)
  }

  /// Backups of the image that nothing may build on, whatever the repository says of them.
  func unusableParents(of image: ImageID, in repository: RepositoryID) throws -> Set<BackupID> {
    let corrupt = try allPages {
      try backups(BackupFilter(image: image, repository: repository, state: .corrupt), $0)
    }
    let failed = try allPages { try backups(BackupFilter(image: image, repository: repository, state: .failed), $0) }
    return Set((corrupt + failed.filter { $0.beforeDeletion != nil }).map(\.id))
  }
}

extension CatalogTransaction {
  /// Has the row say what was decided at the backup's moment.
  func decide(_ plan: BackupPlan, for id: BackupID, job: JobID) throws {
    guard var backup = try catalog.backup(id), backup.state == .running else { return }
    let provisional = backup.chain
    if try catalog.chain(plan.chain) == nil {
      guard let image = try catalog.image(backup.image) else { return }
      try insert(
        Chain(
          id: plan.chain, image: image.id, imageName: image.name, repository: backup.repository, createdAt: now))
    }
    let forecast = backup
    backup.take(plan)
    guard backup != forecast else { return }
    try update(backup, job: job)
    guard provisional != plan.chain else { return }
    let rest = try catalog.backups(BackupFilter(chain: provisional), PageRequest(limit: 1))
    if rest.items.isEmpty { try delete(provisional) }
  }
}

extension Backup {
  fileprivate mutating func take(_ plan: BackupPlan) {
    (kind, chain, sequence) = (plan.kind, plan.chain, plan.sequence)
    parent = plan.parent?.backup
    reason = plan.reason
    (trackingFallback, fallbackReason) = (plan.fallback?.to, plan.fallback?.reason)
    if plan.kind == .copy { tracker = nil }
  }
}
