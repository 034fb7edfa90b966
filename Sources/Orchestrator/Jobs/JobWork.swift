import Logging
import Model

/// A kind of job: what it needs, whether it can stand still, and what it does.
///
/// A new kind is a case of `JobRequest` with its `JobKind`, a type here, and a line in ``JobRequest/work``.
protocol JobWork: Sendable {
  /// Whether its work has checkpoints to stand still at.
  var isPausable: Bool { get }
  /// Bytes per second; 0 = unlimited.
  var speedLimit: UInt64 { get }
  /// The images that it reads or writes.
  var images: [ImageID] { get }
  /// The images that it writes over.
  var overwrittenImages: [ImageID] { get }
  /// What a success tells of its repository's storage.
  var findingOfSuccess: RepositoryFinding? { get }

  /// The repository that it uses; nil if it uses none, or its backup isn't known any more.
  func repository(in catalog: any CatalogReading) throws -> RepositoryID?
  /// What it needs while it runs, see ``JobClaim``.
  func claims(in catalog: any CatalogReading) throws -> [JobClaim]
  /// Does it. What it was asked for may have changed since: it checks that again.
  func run(_ context: JobContext) async -> JobEnd
  /// Ends the rows that `job` was to make and hasn't ended, because its work won't.
  func giveUp(_ job: JobID, why: String, in transaction: CatalogTransaction) throws
  /// What the job has left behind if it is stopped now; nil if that is nothing worth a word.
  func aftermath(of job: Job, in catalog: any CatalogReading) throws -> Aftermath?
}

extension JobWork {
  var speedLimit: UInt64 { 0 }
  var images: [ImageID] { [] }
  var overwrittenImages: [ImageID] { [] }
  var findingOfSuccess: RepositoryFinding? { nil }
  func repository(in catalog: any CatalogReading) throws -> RepositoryID? { nil }
  func giveUp(_ job: JobID, why: String, in transaction: CatalogTransaction) throws {}
  func aftermath(of job: Job, in catalog: any CatalogReading) throws -> Aftermath? { nil }
}

extension JobRequest {
  var work: any JobWork {
    switch self {
    case .backup(let request): BackupWork(request: request)
    case .verify(let backup, let level): VerifyWork(backup: backup, level: level)
    case .restore(let backup, let target, let mode): RestoreWork(backup: backup, target: target, mode: mode)
    case .deleteBackup(let backup): DeletionWork(backup: backup)
    case .rescan(let repository): RescanWork(repository: repository)
    case .check(let image, let repairsLeaks): CheckWork(image: image, repairsLeaks: repairsLeaks)
    case .attach(let image, let cache): AttachWork(image: image, cache: cache)
    case .detach(let image): DetachWork(image: image)
    case .verifyChain(let chain, let level): VerifyChainWork(chain: chain, level: level)
    case .restoreGroup(let group, let restores): RestoreGroupWork(group: group, restores: restores)
    case .reconcile(let image): ReconcileWork(image: image)
    case .fleece(let fleecing, let images, let lifetime):
      FleeceWork(fleecing: fleecing, images: images, lifetime: lifetime)
    case .finishFleecing(let fleecing, let images, let outcome, let label):
      FinishFleecingWork(fleecing: fleecing, images: images, outcome: outcome, label: label)
    }
  }
}

/// What a job's work is done with.
struct JobContext: Sendable {
  let transactions: CatalogTransactions
  let engine: any BlockEngine
  let serving: Serving
  let limits: ServiceLimits
  /// As it was when it began.
  let job: Job
  let live: LiveJob

  func log(_ level: JobLogEntry.Level, _ message: String) { live.log(level, message) }
}
