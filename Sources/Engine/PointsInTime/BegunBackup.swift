import Bitmaps
import EventLoops
import Locks
import Model
import Repositories

/// An image that is held at its group's moment, under its lease, with a stage that nothing was written to yet. Whoever
/// takes one from ``BegunBackups`` ends it.
struct BegunBackup: Sendable {
  let order: BackupOrder
  let image: HeldImage
  let repository: any BackupRepository
  let lease: any RepositoryLease
  let stage: any BackupStage
  /// Where all of these are.
  let loop: EventLoop
  let job: JobID
  /// Set at the moment.
  var plan: BackupPlan
  /// What the image's files are, if its tracker is kept in a sidecar.
  var identity: ImageIdentity?
  /// What it builds on; nil for what begins a chain.
  let parent: StoredBackup?
  /// The name of the bitmap that says what has changed; nil where hashes alone tell.
  let countedBy: [UInt8]?
  /// Where the image may differ from what it builds on; nil: anywhere.
  private(set) var changes: DirtyBitmap?
  /// Leaves of grains that are looked at although the bitmap says nothing of them.
  private(set) var sample: [UInt64] = []
  private let sampledShare: Double
  /// What is to be set once it is durable; nil where nothing can count from it.
  var checkpoint: NewCheckpoint?

  init(
    _ order: BackupOrder, _ image: HeldImage, in repository: any BackupRepository, _ lease: any RepositoryLease,
    _ stage: any BackupStage, on loop: EventLoop, for job: JobID, _ plan: BackupPlan, over parent: StoredBackup?,
    countedBy bitmap: [UInt8]?, sampledShare: Double, checkpoint: NewCheckpoint?
  ) {
    (self.order, self.image, self.repository, self.lease, self.stage) = (order, image, repository, lease, stage)
    (self.loop, self.job, self.plan, self.parent, self.countedBy) = (loop, job, plan, parent, bitmap)
    (self.sampledShare, self.checkpoint) = (sampledShare, checkpoint)
  }

  /// What the bitmap says, as of the moment.
  mutating func setChanges(_ changes: DirtyBitmap, byteCount: UInt64) {
    self.changes = changes
    guard let parent else { return }
    sample = SampledCheck.choose(
      share: sampledShare, byteCount: byteCount, of: HashTree(byteCount: parent.manifest.virtualSize),
      besides: changes)
  }

  /// Ends it without a backup. On `loop`. Returns what couldn't be removed.
  nonisolated(nonsending)
    func letGo() async -> [String]
  {
    let left = await stage.discard()
    await lease.giveBack()
    await image.letGo()
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
