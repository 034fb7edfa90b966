import Model

/// Which images of a group are to be restored, and where to.
package struct GroupRestoreDraft: Hashable, Sendable {
  package struct Member: Hashable, Sendable {
    package var image: Reference<Image>
    package var target: RestoreDraft

    package init(image: Reference<Image>, target: RestoreDraft) {
      self.image = image
      self.target = target
    }
  }

  package var members: [Member]
  /// Must be the group's id where an image is overwritten.
  package var confirm: String?

  package init(_ members: [Member], confirm: String? = nil) {
    self.members = members
    self.confirm = confirm
  }
}

extension BackupService {
  /// A job that restores the images that are named, each from its backup of the group. Throws what a restore of one
  /// throws, and `backupNotComplete` for an image whose backup of the group isn't complete: others of an incomplete
  /// group can be restored.
  package func restoreGroup(
    _ group: ULID, _ draft: GroupRestoreDraft, _ conditions: ChangeConditions<Job> = ChangeConditions()
  ) async throws -> Answer<Job> {
    try await answering(conditions) {
      let backups = try transactions.read { catalog in
        let restores = try Self.resolve(group, draft, conditions, in: catalog)
        return restores.map(\.backup.id)
      }
      var looked = draft
      var outlooks: [BackupID: RestoreOutlook] = [:]
      for (index, backup) in backups.enumerated() {
        looked.members[index].target = try await look(at: draft.members[index].target, for: backup)
        if conditions.dryRun { outlooks[backup] = try await outlook(of: backup, looked.members[index].target) }
      }
      try RestoreOutlook.requireSound(outlooks)
      let (target, seen) = (looked, outlooks)
      return try await submitNew(conditions) { view in
        let restores = try Self.resolve(group, target, conditions, in: view.catalog)
        let plans = try restores.map { backup, target in
          try Self.plan(backup, target, seen[backup.id] ?? RestoreOutlook(), in: view.catalog)
        }
        let parts = zip(restores, target.members).map { restore, member in
          GroupRestore(
            image: restore.backup.image, backup: restore.backup.id, target: restore.target, mode: member.target.mode)
        }
        return JobDraft(
          request: .restoreGroup(group: group, restores: parts),
          links: JobLinks(
            images: restores.map(\.backup.image), repository: restores.first?.backup.repository,
            backups: restores.map(\.backup.id), chains: restores.map(\.backup.chain)),
          plan: Plan(
            action: "restore-group", steps: plans.flatMap(\.steps), warnings: plans.flatMap(\.warnings),
            resource: .groupRestore(of: group, restores.map(\.backup.id))),
          legs: restores.map(\.backup.virtualSize))
      }
    }
  }

  private typealias ResolvedRestore = (backup: Backup, target: RestoreTarget)

  private static func resolve(
    _ group: ULID, _ draft: GroupRestoreDraft, _ conditions: ChangeConditions<Job>, in catalog: any CatalogReading
  ) throws -> [ResolvedRestore] {
    let backups = try catalog.backups(ofGroup: group, PageRequest(limit: PageRequest.maximumLimit)).items
    guard !backups.isEmpty else { throw DomainError.noGroup(group) }
    try requireConfirmation(of: group, draft, conditions)
    var restores: [ResolvedRestore] = []
    for (index, member) in draft.members.enumerated() {
      let backup = try backup(of: member.image, at: index, among: backups, group, in: catalog)
      guard !restores.contains(where: { $0.backup.image == backup.image }) else {
        throw DomainError(
          .invalidField, "image '\(member.image)' is named twice",
          faults: [DomainError.Fault(.targets.item(index), "is the same image as one before")])
      }
      let target = try resolve(backup.id, member.target, conditions, isConfirmed: true, in: catalog).1
      guard !restores.contains(where: { $0.target.isSame(as: target) }) else {
        throw DomainError(
          .invalidField, "two images would be restored to one target",
          faults: [DomainError.Fault(.targets.item(index), "is the same target as one before")])
      }
      restores.append((backup, target))
    }
    return restores
  }

  /// The image's complete backup of the group; an image that isn't registered any more is found by its id.
  private static func backup(
    of image: Reference<Image>, at index: Int, among backups: [Backup], _ group: ULID, in catalog: any CatalogReading
  ) throws -> Backup {
    let id: ImageID = if case .id(let id) = image { id } else { try catalog.find(image).id }
    let own = backups.filter { $0.image == id }
    guard !own.isEmpty || backups.contains(where: { $0.groupImages.contains(id) }) else {
      throw DomainError(
        .invalidField, "image '\(image)' isn't of group \(group)",
        faults: [DomainError.Fault(.targets.item(index), "isn't an image of the group")])
    }
    guard let backup = own.first(where: { $0.state == .complete }) else {
      throw DomainError(
        .backupNotComplete, "image '\(image)' has no complete backup in group \(group)",
        remedy: "name only images that have one")
    }
    return backup
  }

  private static func requireConfirmation(
    of group: ULID, _ draft: GroupRestoreDraft, _ conditions: ChangeConditions<Job>
  ) throws(DomainError) {
    let overwrites = draft.members.contains { if case .image = $0.target { true } else { false } }
    guard overwrites, !conditions.dryRun, draft.confirm != group.description else { return }
    throw DomainError(
      .confirmationRequired, "this overwrites images: 'confirm' must be the group's id",
      remedy: "send \"confirm\": \"\(group)\"", faults: [DomainError.Fault(.confirm, "must be '\(group)'")])
  }
}

extension RestoreTarget {
  /// As far as the spelling tells: the links on the paths were resolved.
  fileprivate func isSame(as other: RestoreTarget) -> Bool {
    switch (self, other) {
    case (.newFile(let path, _), .newFile(let otherPath, _)): comparablePath(path) == comparablePath(otherPath)
    case (.nbd(let uri, _), .nbd(let otherURI, _)):
      ComparableSource(.nbd(uri: uri)) == ComparableSource(.nbd(uri: otherURI))
    case (.image(let image), .image(let otherImage)): image == otherImage
    default: false
    }
  }
}

extension DomainError {
  static func noGroup(_ id: ULID) -> DomainError {
    DomainError(
      .notFound, "there is no group \(id)", remedy: "take the id from a backup's group; a rescan finds the backups")
  }
}
