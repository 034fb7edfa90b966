import Failures
import Model
import Repositories

// What an increment builds on is opened before it is built on: a backup is called complete only if it can be restored.
extension LocalEngine {
  /// Parents that are tried, newest first, before the backup becomes a full.
  private static let parentTries = 4

  /// The decision whose parent can be opened, with all that it builds on. Damage to the bytes of a parent's data shows in
  /// its verification, as it does for a full.
  /// - Throws: what the storage says. Only damage makes a parent unusable.
  nonisolated(nonsending)
    func decisionThatHolds(
      _ first: BackupDecision, in repository: any BackupRepository, _ control: any JobControl
    ) async throws -> BackupDecision
  {
    var decision = first
    for attempt in 1...Self.parentTries {
      guard let chain = decision.chain, let parent = decision.plan.base?.parent,
        let damage = try await damage(of: parent, in: chain, repository)
      else { return decision }
      control.log(.warning, "backup \(parent.backup) can't be built on: \(damage)")
      let isLast = attempt == Self.parentTries
      decision.order.unusableParents.formUnion(isLast ? chain.links.map(\.manifest.backup) : [parent.backup])
    }
    return decision
  }

  /// Why the backup can't be restored, as far as its files tell when they are opened; nil if it can.
  nonisolated(nonsending)
    private func damage(
      of backup: Manifest, in chain: StoredChain, _ repository: any BackupRepository
    ) async throws -> String?
  {
    let manifests = Dictionary(uniqueKeysWithValues: chain.links.map { ($0.manifest.backup, $0.manifest) })
    do {
      for id in chain.path(to: backup.backup) {
        guard let manifest = manifests[id] else { continue }
        try await stored(manifest, in: repository).openHashes(work: work).device.close()
      }
      try await stored(backup, in: repository).openData().close()
      return nil
    } catch let error as DomainError
      where [.backupCorrupt, .backupNotComplete, .backingRefused, .formatUnsupported].contains(error.code)
    {
      return error.detail
    }
  }

  func stored(_ manifest: Manifest, in repository: any BackupRepository) -> StoredBackup {
    StoredBackup(manifest: manifest, location: manifest.location(in: repository.location), repository: repository)
  }
}
