import Foundation
import Model

/// Where a backup is to be restored to.
package enum RestoreDraft: Hashable, Sendable {
  /// A file that must not exist yet, at an absolute path.
  case newFile(path: String, format: DiskFormat)
  /// Over a registered, detached image of the same size; `confirm` must be its name.
  case image(Reference<Image>, confirm: String?, mode: RestoreMode = .auto)
  /// Over an export of an NBD server, of the same size; `targetIsZero`: it reads as zeroes.
  case nbd(uri: String, targetIsZero: Bool)
}

extension RestoreDraft {
  /// Nil for a target that isn't an image.
  var mode: RestoreMode? { if case .image(_, _, let mode) = self { mode } else { nil } }
}

extension BackupService {
  /// A job that writes what the backup holds. Throws `backupNotComplete`, `backupCorrupt`, `targetExists`,
  /// `confirmationRequired`, `imageInUse`, `targetMismatch`.
  package func restoreBackup(
    _ id: BackupID, to target: RestoreDraft, _ conditions: ChangeConditions<Job> = ChangeConditions()
  ) async throws -> Answer<Job> {
    try await answering(conditions) {
      // What the rows tell first, then what the engine tells, then the rows again with the job.
      _ = try transactions.read { try Self.resolve(id, target, conditions, in: $0) }
      let target = try await look(at: target, for: id)
      let outlook = conditions.dryRun ? try await outlook(of: id, target) : RestoreOutlook()
      try RestoreOutlook.requireSound([id: outlook])
      return try await submitNew(conditions) { view in
        let (backup, resolved) = try Self.resolve(id, target, conditions, in: view.catalog)
        var links = Self.links(to: backup)
        if case .image(let image) = resolved { links.target = image }
        return JobDraft(
          request: .restore(backup: id, target: resolved, mode: target.mode), links: links,
          plan: try Self.plan(backup, resolved, outlook, in: view.catalog), legs: [backup.virtualSize])
      }
    }
  }

  /// - Parameter isConfirmed: whether an overwriting was confirmed already.
  static func resolve(
    _ id: BackupID, _ target: RestoreDraft, _ conditions: ChangeConditions<Job>, isConfirmed: Bool = false,
    in catalog: any CatalogReading
  ) throws -> (Backup, RestoreTarget) {
    let backup = try catalog.find(id)
    try conditions.require(revision: backup.revision, of: "backup \(backup.id)")
    try backup.requireReadable()
    switch target {
    case .newFile(let path, let format): return (backup, .newFile(path: path, format: format))
    case .image(let reference, let confirm, _):
      let image = try catalog.find(reference)
      if !conditions.dryRun, !isConfirmed {
        try image.requireConfirmation(confirm, because: "this overwrites image '\(image.name)'")
      }
      try catalog.requireRestorable(backup, over: image)
      return (backup, .image(image.id))
    case .nbd(let uri, let targetIsZero):
      if let name = try catalog.registeredSources()[ComparableSource(.nbd(uri: uri))] {
        throw DomainError(
          .sourceTaken, "\(uri) is registered as image '\(name)'", remedy: "restore over that image")
      }
      return (backup, .nbd(uri: uri, targetIsZero: targetIsZero))
    }
  }

  /// What only the storage knows: whether there is a file already, whether the target can be opened, and its size.
  /// Returns the target with the links on its path resolved: the job's claim is on the file, however it was written.
  func look(at target: RestoreDraft, for id: BackupID) async throws -> RestoreDraft {
    switch target {
    case .newFile(let path, let format):
      return .newFile(path: try await engine.resolveTarget(path), format: format)
    case .image(let reference, _, _):
      _ = try await inspectImage(reference)
    case .nbd(let uri, _):
      let size = try await engine.inspect(ImageLocation(source: .nbd(uri: uri), format: .raw)).virtualSize
      let backup = try transactions.read { try $0.find(id) }
      guard size == backup.virtualSize else {
        throw DomainError(
          .targetMismatch, "\(uri) has \(size) bytes, backup \(id) has \(backup.virtualSize)",
          remedy: "restore to an export of the same size, or to a new file")
      }
    }
    return target
  }

  /// What only the storage can tell a plan.
  func outlook(of id: BackupID, _ target: RestoreDraft) async throws -> RestoreOutlook {
    var outlook = RestoreOutlook()
    let location = try transactions.read { try $0.storedBackup(id).location }
    outlook.path = try await engine.restorePath(to: location)
    if case .image(let reference, _, let mode) = target {
      let image = try transactions.read { try $0.find(reference) }
      outlook.overlays = try await overlays(on: image)
      if outlook.path.findingCount == 0 {
        outlook.choice = try await engine.restoreChoice(
          RestoreOrder(backup: location, target: .image(image.location), mode: mode))
      }
    }
    return outlook
  }

  static func plan(
    _ backup: Backup, _ target: RestoreTarget, _ outlook: RestoreOutlook, in catalog: any CatalogReading
  ) throws -> Plan {
    var warnings: [String] = []
    let step: String
    switch target {
    case .newFile(let path, let format): step = "restore backup \(backup.id) to \(path) as \(format.rawValue)"
    case .image(let id):
      let image = try catalog.find(id)
      let what = outlook.choice.map { ", \($0.mode == .all ? "all of it" : "only what differs"): \($0.why)" } ?? ""
      step = "restore backup \(backup.id) over image '\(image.name)'\(what)"
      warnings.append("what image '\(image.name)' holds now is lost")
      warnings += outlook.overlays.warnings(of: image)
    case .nbd(let uri, let targetIsZero):
      step = "restore backup \(backup.id) to \(uri)" + (targetIsZero ? ", without its zeroes" : "")
      warnings.append("what \(uri) holds now is lost")
      if targetIsZero { warnings.append("unless it reads as zeroes, what isn't written keeps what it holds now") }
    }
    if backup.isMixture { warnings.append("the backup is of a mixture: \(backup.reason)") }
    if backup.verifiedAt == nil { warnings.append("the backup was never verified") }
    return Plan(
      action: "restore-backup", steps: try outlook.steps(in: catalog) + [step], warnings: warnings,
      resource: .restore(of: backup.id))
  }
}
