import Foundation
import Model

/// What it takes to make an export, as the rows tell. Making one throws what refuses it.
struct ExportCreation: Sendable {
  enum Source: Sendable {
    /// `attaches`: it has to be attached for the export.
    case image(Image, attaches: Bool)
    /// With the backups from which it shows what changed.
    case backup(LocatedBackup, [ExportOrder.Difference])
  }

  let draft: ExportDraft
  let source: Source
  let isReadOnly: Bool
  private let overlays: Overlays

  /// - Parameter overlays: on the image that it may attach.
  init(
    _ draft: ExportDraft, _ limits: ServiceLimits, _ overlays: Overlays = .none, in catalog: any CatalogReading
  ) throws {
    self.draft = draft
    self.overlays = overlays
    isReadOnly = draft.isReadOnly ?? true
    try draft.listen.require(draft.tls)
    if case .backup = draft.source { try draft.bitmaps.requireNone() }
    try catalog.requireFree(draft, limits)
    switch draft.source {
    case .image(let reference):
      let image = try catalog.find(reference)
      guard image.isAtRest || image.state == .attached else {
        throw DomainError(
          .imageNotAttached, "image '\(image.name)' is to be attached, and couldn't be opened yet",
          remedy: "attach it again, or detach it, and export it then")
      }
      let attaches = !isReadOnly && image.state != .attached
      // Those of before are read-only: nothing may write beneath them.
      if attaches { try catalog.requireUnserved(image) }
      _ = try catalog.located(draft.changedSince, for: .image(image.id))
      source = .image(image, attaches: attaches)
    case .backup(let id):
      guard isReadOnly else {
        throw DomainError(
          .invalidField, "a backup is exported read-only: it must stay as it is",
          faults: [DomainError.Fault(.readOnly, "must be true for a backup")])
      }
      let stored = try catalog.storedBackup(id)
      try stored.backup.requireReadable()
      source = .backup(stored, try catalog.located(draft.changedSince, for: .backup(id)))
    }
    try requireNoOpponents(in: catalog)
  }

  /// What the export shows.
  var served: ExportSource {
    switch source {
    case .image(let image, _): .image(image.id)
    case .backup(let stored, _): .backup(stored.backup.id)
    }
  }

  /// What no job may touch while the export is made; once it is, its row keeps them from it.
  func claims(in catalog: any CatalogReading) throws -> [JobClaim] {
    switch source {
    case .image(let image, let attaches): [try JobClaim.image(image.id, isAlone: attaches, in: catalog)]
    case .backup(let stored, let differences):
      Set([stored.backup.chain] + differences.map(\.backup.chain)).map { JobClaim.chain($0, isAlone: false) }
    }
  }

  func export(_ id: ExportID, at now: Date) -> Export {
    Export(
      id: id, name: draft.name, source: served, isReadOnly: isReadOnly, listen: draft.listen, tls: draft.tls,
      offersAllocationDepth: draft.offersAllocationDepth, bitmaps: draft.bitmaps,
      changedSince: draft.changedSince, createdAt: now)
  }

  func order(for export: Export) -> ExportOrder {
    switch source {
    case .image(let image, let attaches): export.order(of: image, isAttached: attaches || image.state == .attached)
    case .backup(let stored, let differences): export.order(of: stored, differences)
    }
  }

  var plan: Plan {
    var steps: [String] = []
    switch source {
    case .image(let image, let attaches):
      if attaches { steps.append("attach image '\(image.name)': open it read-write, and hold its locks") }
      steps.append("serve image '\(image.name)' as '\(draft.name)' at \(draft.listen.text)")
    case .backup(let stored, _):
      steps.append("serve backup \(stored.backup.id) as '\(draft.name)' at \(draft.listen.text)")
    }
    var warnings = ["whether the address can be had is only seen when it is done"]
    if case .image(let image, let attaches) = source {
      warnings += image.damageWarnings
      if attaches { warnings += overlays.warnings(toAttach: image) }
    }
    return Plan(
      action: "create-export", steps: steps, warnings: warnings,
      resource: .export(export(ExportID(), at: .distantPast)))
  }

  // MARK: Checks

  /// Throws `confirmationRequired` if it attaches an image on which registered overlays stand.
  func requireConfirmed() throws(DomainError) {
    guard case .image(let image, attaches: true) = source else { return }
    try overlays.requireConfirmation(draft.confirm, toAttach: image)
  }

  /// Jobs whose work the export would be in the way of, or that would take away what it shows.
  private func requireNoOpponents(in catalog: any CatalogReading) throws {
    switch source {
    case .image(let image, _):
      let claims = try claims(in: catalog)
      for job in try catalog.liveJobs()
      where JobQueue.conflict(claims, try job.request.work.claims(in: catalog)) != nil {
        throw DomainError(
          .imageInUse, "the \(job.request.kind.rawValue) job \(job.id) uses image '\(image.name)'",
          remedy: "wait for it, or cancel it")
      }
    case .backup(let stored, _):
      let deletions = try catalog.liveJobs().filter { $0.request.kind == .deleteBackup }
      let lineage = deletions.isEmpty ? [] : try Self.lineage(of: stored.backup, in: catalog)
      for job in deletions {
        guard case .deleteBackup(let id) = job.request, lineage.contains(id) else { continue }
        throw DomainError(
          .backupNotComplete, "the delete-backup job \(job.id) deletes backup \(id)", remedy: "export another one")
      }
    }
  }

  /// The backup and what it builds on. A chain that bites its tail ends there.
  private static func lineage(of backup: Backup, in catalog: any CatalogReading) throws -> Set<BackupID> {
    var lineage: Set<BackupID> = [backup.id]
    var next = backup.parent
    while let id = next, lineage.insert(id).inserted { next = try catalog.backup(id)?.parent }
    return lineage
  }
}
