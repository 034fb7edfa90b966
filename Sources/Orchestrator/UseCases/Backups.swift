import Foundation
import Model

/// A backup to be made.
package struct BackupDraft: Hashable, Sendable {
  package var images: [Reference<Image>]
  package var repository: Reference<Repository>
  package var kind: RequestedBackupKind
  /// Nil: the repository's own.
  package var tracker: TrackerName?
  package var compression: Compression
  /// Bytes per second over all images; 0 = unlimited.
  package var speedLimit: UInt64
  package var onFailure: FailurePolicy
  /// Of attached images.
  package var onTempFull: OnTempFull
  /// Of attached images; nil: as fast as it goes.
  package var guestLatencyBudget: GuestLatencyBudget?

  package init(
    images: [Reference<Image>], repository: Reference<Repository>, kind: RequestedBackupKind = .full,
    tracker: TrackerName? = nil, compression: Compression = .zstd, speedLimit: UInt64 = 0,
    onFailure: FailurePolicy = .fail, onTempFull: OnTempFull = .breakBackup,
    guestLatencyBudget: GuestLatencyBudget? = nil
  ) {
    self.onTempFull = onTempFull
    self.guestLatencyBudget = guestLatencyBudget
    self.onFailure = onFailure
    self.images = images
    self.repository = repository
    self.kind = kind
    self.tracker = tracker
    self.compression = compression
    self.speedLimit = speedLimit
  }
}

/// Which backups are wanted; nil means any. An image or repository that isn't registered is found by its id only.
package struct BackupQuery: Hashable, Sendable {
  package var image: Reference<Image>?
  package var repository: Reference<Repository>?
  package var chain: ChainID?
  package var state: Backup.State?

  package init(
    image: Reference<Image>? = nil, repository: Reference<Repository>? = nil, chain: ChainID? = nil,
    state: Backup.State? = nil
  ) {
    self.image = image
    self.repository = repository
    self.chain = chain
    self.state = state
  }
}

/// A backup with what is derived from other rows.
package struct BackupView: Hashable, Sendable {
  package var backup: Backup
  /// The image's last known name.
  package var imageName: ResourceName
  package var repositoryName: ResourceName
  /// Backups that can't be restored without this one.
  package var dependents: [BackupID]
  /// Whether a deletion would be taken: it is ended, nothing depends on it, and it isn't exported.
  package var deletable: Bool

  /// The views of all these, in their order: the catalog is asked as often for many as for one.
  static func all(of backups: [Backup], in catalog: any CatalogReading) throws -> [BackupView] {
    let ids = Set(backups.map(\.id))
    let chains = try catalog.chains(Set(backups.map(\.chain)))
    let repositories = try catalog.repositories(Set(backups.map(\.repository)))
    let dependents = try catalog.dependents(of: ids)
    let exported = try catalog.exported(among: ids)
    return try backups.map { backup in
      guard let chain = chains[backup.chain], let repository = repositories[backup.repository] else {
        throw DomainError(
          .internalError, "the catalog holds backup \(backup.id) without its chain or repository",
          remedy: "rescan the repository")
      }
      let dependents = dependents[backup.id] ?? []
      return BackupView(
        backup: backup, imageName: chain.imageName, repositoryName: repository.name, dependents: dependents,
        deletable: backup.state != .running && dependents.isEmpty && !exported.contains(backup.id))
    }
  }
}

extension BackupService {
  package func backup(_ id: BackupID) throws -> BackupView {
    try transactions.read { try BackupView.all(of: [$0.find(id)], in: $0)[0] }
  }

  package func backups(_ query: BackupQuery, _ page: PageRequest) throws -> Page<BackupView> {
    try transactions.read { catalog in
      let filter = BackupFilter(
        image: try query.image.map { try id(of: $0, in: catalog) },
        repository: try query.repository.map { try id(of: $0, in: catalog) }, chain: query.chain, state: query.state)
      return try catalog.backups(filter, page).mapItems { try BackupView.all(of: $0, in: catalog) }
    }
  }

  /// A job that backs up each of the images. Throws `notFound`, `invalidField`, `repositoryUnavailable`,
  /// `repositoryReadOnly`, and `imageInUse` for an attached one.
  package func createBackup(_ draft: BackupDraft, _ conditions: ChangeConditions<Job> = ChangeConditions()) async throws
    -> Answer<Job>
  {
    let limits = limits
    if let repository = try? transactions.read({ try $0.find(draft.repository) }) {
      try await lookAgain(at: repository)
    }
    return try await submit(conditions) { view in
      let images = try view.catalog.images(ofOneMoment: draft.images, limits)
      let repository = try view.catalog.find(draft.repository)
      try repository.requireWritable()
      return try Self.jobDraft(draft, images, repository, in: view)
    }
  }

  /// A job that checks the backup. Throws `backupNotComplete` for one that is being made or failed.
  package func verifyBackup(
    _ id: BackupID, level: VerifyLevel, _ conditions: ChangeConditions<Job> = ChangeConditions()
  ) async throws -> Answer<Job> {
    try await submit(conditions) { view in
      let backup = try view.catalog.find(id)
      try conditions.require(revision: backup.revision, of: "backup \(backup.id)")
      guard backup.state != .running, backup.state != .failed else { throw backup.notComplete }
      return JobDraft(
        request: .verify(backup: id, level: level), links: Self.links(to: backup),
        plan: Plan(
          action: "verify-backup", steps: ["verify backup \(id) at level \(level.rawValue)"],
          resource: .verification(of: id, level)),
        legs: [backup.virtualSize])
    }
  }

  /// A job that deletes the backup's files, then forgets it. Throws `backupHasDependents`, `exportInUse`, and
  /// `backupNotComplete` while it is being made, `repositoryReadOnly`.
  package func deleteBackup(_ id: BackupID, _ conditions: ChangeConditions<Job> = ChangeConditions()) async throws
    -> Answer<Job>
  {
    let home = try? transactions.read { try $0.find($0.find(id).repository) }
    if let home, home.isReadOnly { try await lookAgain(at: home) }
    return try await answering(conditions) {
      let outlook = conditions.dryRun ? try await checkpointOutlook(of: id) : ([], [])
      return try await submitNew(conditions) { view in
        let backup = try view.catalog.find(id)
        try conditions.require(revision: backup.revision, of: "backup \(backup.id)")
        guard backup.state != .running else {
          throw DomainError(
            .backupNotComplete, "backup \(id) is still being made", remedy: "wait for its job, or cancel it")
        }
        try view.catalog.requireNotExported(id)
        try view.catalog.requireNoDependents(of: id)
        let repository = try view.catalog.find(backup.repository)
        if repository.isReadOnly { try repository.requireWritable() }
        return JobDraft(
          request: .deleteBackup(backup: id), links: Self.links(to: backup),
          plan: Plan(
            action: "delete-backup",
            steps: outlook.0 + ["delete the files of backup \(id), \(backup.storedSize) bytes"], warnings: outlook.1,
            resource: .deletion(of: id)))
      }
    }
  }

  /// What the deletion means for the image's bitmap, as steps and warnings of a plan.
  private func checkpointOutlook(of id: BackupID) async throws -> (steps: [String], warnings: [String]) {
    guard let backup = try transactions.read({ try $0.backup(id) }),
      var order = try transactions.read({ try $0.checkpointReturn(of: backup) })
    else { return ([], []) }
    order.isRehearsal = true
    switch await engine.returnCheckpoint(order, within: limits.lookTurn, by: transactions.time) {
    case .returned:
      return (["have the image's bitmap count from backup \(order.parent.backup), with what \(id) stored"], [])
    case .unconcerned: return ([], [])
    case .impossible(let why): return ([], ["the next backup compares by hash: \(why)"])
    }
  }

  // MARK: Parts

  private func id(of reference: Reference<Image>, in catalog: any CatalogReading) throws -> ImageID {
    if case .id(let id) = reference { id } else { try catalog.find(reference).id }
  }

  private func id(of reference: Reference<Repository>, in catalog: any CatalogReading) throws -> RepositoryID {
    if case .id(let id) = reference { id } else { try catalog.find(reference).id }
  }

  private static func tracker(of draft: BackupDraft, _ repository: Repository) throws(DomainError) -> TrackerName {
    let standard = TrackerName.standard(of: repository.id)
    guard let tracker = draft.tracker else { return standard }
    guard !tracker.isStandard || tracker == standard else {
      throw DomainError(
        .invalidField, "'\(tracker)' is the tracker of another repository than '\(repository.name)'",
        faults: [DomainError.Fault(.tracker, "is another repository's own; 'default' is this one's")])
    }
    return tracker
  }

  private static func jobDraft(
    _ draft: BackupDraft, _ images: [Image], _ repository: Repository, in view: CatalogView
  ) throws -> JobDraft {
    let now = view.now
    let group = ULID(at: now)
    let tracker = try tracker(of: draft, repository)
    for image in images { try view.catalog.require(tracker, forBackupOf: image) }
    let forecasts = try images.map {
      try BackupForecast(of: $0, draft.kind, into: repository.id, tracker: tracker, in: view)
    }
    let chains = forecasts.compactMap(\.newChain)
    let backups = zip(images, forecasts).map { image, forecast in
      Backup(
        id: BackupID(ULID(at: now)), image: image.id, repository: repository.id, chain: forecast.chain,
        sequence: forecast.sequence, group: group, groupImages: images.map(\.id), kind: forecast.kind,
        requestedKind: draft.kind, reason: draft.kind.words, tracker: forecast.kind == .copy ? nil : tracker,
        compression: draft.compression,
        pointInTime: now, createdAt: now, virtualSize: image.virtualSize)
    }
    let request = BackupJobRequest(
      images: images.map(\.id), backups: backups.map(\.id), group: group, repository: repository.id, kind: draft.kind,
      compression: draft.compression, speedLimit: draft.speedLimit, onFailure: draft.onFailure, tracker: tracker,
      onTempFull: draft.onTempFull, guestLatencyBudget: draft.guestLatencyBudget)
    var links = JobLinks(
      images: images.map(\.id), repository: repository.id, backups: backups.map(\.id), chains: backups.map(\.chain))
    if images.count == 1 {
      links.image = images[0].id
      links.backup = backups[0].id
    }
    return JobDraft(
      request: .backup(request), links: links, plan: plan(draft, zip(images, forecasts), repository), chains: chains,
      backups: backups, legs: images.map(\.virtualSize))
  }

  private static func plan(
    _ draft: BackupDraft, _ members: Zip2Sequence<[Image], [BackupForecast]>, _ repository: Repository
  ) -> Plan {
    let images = members.map(\.0)
    return Plan(
      action: "create-backup",
      steps: members.map { image, forecast in
        "back up image '\(image.name)' (\(image.virtualSize) bytes), \(forecast.words), into '\(repository.name)'"
      },
      warnings: images.filter { $0.state == .unavailable }.map {
        "image '\($0.name)' couldn't be opened the last time"
      } + images.flatMap(\.damageWarnings),
      resource: .backups(
        of: images.map(\.id), into: repository.id, draft.kind, draft.compression, speedLimit: draft.speedLimit))
  }

  static func links(to backup: Backup) -> JobLinks {
    JobLinks(image: backup.image, repository: backup.repository, backup: backup.id)
  }

}
