import Bitmaps
import EventLoops
import Locks
import Model
import Repositories

/// An image that is held at its group's moment: open with its locks, under its lease, with a stage that nothing was
/// written to yet. Whoever takes one from ``BegunBackups`` ends it.
struct BegunBackup: Sendable {
  let order: BackupOrder
  let image: OpenImage
  let repository: any BackupRepository
  let lease: any RepositoryLease
  let stage: any BackupStage
  /// Where all of these are.
  let loop: EventLoop
  let job: JobID
  /// Set at the moment.
  var plan: BackupPlan
  /// What it builds on; nil for what begins a chain.
  let parent: StoredBackup?
  /// What a bitmap says has changed, and since which backup; nil where hashes alone tell.
  let tracked: (from: StoredBackup, changes: DirtyBitmap)?

  /// Ends it without a backup. On `loop`. Returns what couldn't be removed.
  nonisolated(nonsending)
    func letGo() async -> [String]
  {
    let left = await stage.discard()
    await lease.giveBack()
    try? await image.device.close()
    return left
  }
}

/// The backups that were begun, and are neither stored nor abandoned.
final class BegunBackups: Sendable {
  private let begun = Lock<[BackupID: BegunBackup]>([:])

  var ids: [BackupID] { begun.withLock { Array($0.keys) } }

  func put(_ backup: BegunBackup) { begun.withLock { $0[backup.order.backup] = backup } }

  func take(_ backup: BackupID) -> BegunBackup? { begun.withLock { $0.removeValue(forKey: backup) } }

  /// Whether the job's work files belong to one of them.
  func isLive(_ job: JobID) -> Bool { begun.withLock { $0.values.contains { $0.job == job } } }
}
