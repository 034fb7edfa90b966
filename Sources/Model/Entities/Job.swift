import Foundation

/// Work that takes time, from its request to its end. The catalog's row is the one record of truth.
package struct Job: Hashable, Sendable, Codable {
  package let id: JobID
  package var request: JobRequest
  package var state: JobState
  package var progress: JobProgress
  package var createdAt: Date
  package var startedAt: Date?
  package var finishedAt: Date?
  /// What a queued job waits for, in words.
  package var waitingFor: String?
  /// When a paused job resumes by itself; nil while it isn't paused, or pauses without end.
  package var pausedUntil: Date?
  package var retryOf: JobID?
  package var result: JobResult?
  package var error: ProblemDetails?
  package var links: JobLinks
  package var revision: Int

  package init(
    id: JobID = JobID(), request: JobRequest, state: JobState = .queued, progress: JobProgress = JobProgress(),
    createdAt: Date, startedAt: Date? = nil, finishedAt: Date? = nil, waitingFor: String? = nil,
    pausedUntil: Date? = nil, retryOf: JobID? = nil, result: JobResult? = nil, error: ProblemDetails? = nil,
    links: JobLinks = JobLinks(), revision: Int = 1
  ) {
    self.id = id
    self.request = request
    self.state = state
    self.progress = progress
    self.createdAt = createdAt
    self.startedAt = startedAt
    self.finishedAt = finishedAt
    self.waitingFor = waitingFor
    self.pausedUntil = pausedUntil
    self.retryOf = retryOf
    self.result = result
    self.error = error
    self.links = links
    self.revision = revision
  }
}

/// Ids of what a job works on and makes, from the start.
package struct JobLinks: Hashable, Sendable, Codable {
  package var image: ImageID?
  package var images: [ImageID]?
  package var repository: RepositoryID?
  package var backup: BackupID?
  package var backups: [BackupID]?
  package var chains: [ChainID]?
  package var fleecing: FleecingID?
  /// The image that is restored over.
  package var target: ImageID?

  package init(
    image: ImageID? = nil, images: [ImageID]? = nil, repository: RepositoryID? = nil, backup: BackupID? = nil,
    backups: [BackupID]? = nil, chains: [ChainID]? = nil, fleecing: FleecingID? = nil, target: ImageID? = nil
  ) {
    self.image = image
    self.images = images
    self.repository = repository
    self.backup = backup
    self.backups = backups
    self.chains = chains
    self.fleecing = fleecing
    self.target = target
  }
}

/// The life of a job:
///
///        ┌────────── resumed ────────┐
///        ▼                           │
///     queued ──► running ───────► paused
///       │           │                │
///       │           ├► cancelling ◄──┘ ──► cancelled
///       │           ├► succeeded, failed
///       └► cancelled         (from any that isn't ended, when the server dies:) ► interrupted
///
/// A job that was resumed is `queued` until it has a place again. Its work has begun, so that it can be paused, and is
/// cancelled as one that runs.
package enum JobState: String, Sendable, Codable, CaseIterable {
  case queued, running, paused, cancelling
  case succeeded, failed, cancelled, interrupted

  package var isEnded: Bool {
    switch self {
    case .queued, .running, .paused, .cancelling: false
    case .succeeded, .failed, .cancelled, .interrupted: true
    }
  }

  /// Whether the one step from here to `next` is part of a job's life.
  package func allows(_ next: JobState) -> Bool {
    switch (self, next) {
    case (.queued, .running), (.queued, .cancelled), (.queued, .failed): true
    case (.running, .paused), (.paused, .queued), (.queued, .paused): true
    case (.running, .cancelling), (.paused, .cancelling), (.queued, .cancelling): true
    case (.running, .succeeded), (.running, .failed), (.paused, .failed), (.paused, .succeeded): true
    case (.cancelling, .cancelled), (.cancelling, .succeeded), (.cancelling, .failed): true
    case (_, .interrupted): !isEnded
    default: false
    }
  }
}

package struct JobProgress: Hashable, Sendable, Codable {
  /// Bytes of guest data gone through, zeroes included.
  package var done: UInt64
  package var total: UInt64
  /// Bytes per second, of late.
  package var rate: UInt64
  /// Seconds to go at that rate, if it can be told.
  package var eta: Int?

  package init(done: UInt64 = 0, total: UInt64 = 0, rate: UInt64 = 0, eta: Int? = nil) {
    self.done = done
    self.total = total
    self.rate = rate
    self.eta = eta
  }
}

package enum JobKind: String, Sendable, Codable, CaseIterable {
  case backup, verify, restore
  case deleteBackup = "delete-backup"
  case rescan, check, attach, detach
  case verifyChain = "verify-chain"
  case restoreGroup = "restore-group"
  case reconcile
  case fleece
  case finishFleecing = "finish-fleecing"
}

/// What a job was asked to do, with every name resolved to an id. Stored with the job.
package enum JobRequest: Hashable, Sendable, Codable {
  case backup(BackupJobRequest)
  case verify(backup: BackupID, level: VerifyLevel)
  /// `mode` is nil for a target that isn't an image: all is written.
  case restore(backup: BackupID, target: RestoreTarget, mode: RestoreMode? = nil)
  case deleteBackup(backup: BackupID)
  case rescan(repository: RepositoryID)
  case check(image: ImageID, repairsLeaks: Bool)
  /// `cache` is nil for what suits the storage best.
  case attach(image: ImageID, cache: CacheMode?)
  case detach(image: ImageID)
  case verifyChain(chain: ChainID, level: VerifyLevel)
  case restoreGroup(group: ULID, restores: [GroupRestore])
  case reconcile(image: ImageID)
  /// `lifetime`: seconds from the moment to the expiry.
  case fleece(fleecing: FleecingID, images: [ImageID], lifetime: Int)
  /// `label`: what the checkpoint is called by its maker.
  case finishFleecing(fleecing: FleecingID, images: [ImageID], outcome: Fleecing.Outcome, label: String? = nil)

  package var kind: JobKind {
    switch self {
    case .backup: .backup
    case .verify: .verify
    case .restore: .restore
    case .deleteBackup: .deleteBackup
    case .rescan: .rescan
    case .check: .check
    case .attach: .attach
    case .detach: .detach
    case .verifyChain: .verifyChain
    case .restoreGroup: .restoreGroup
    case .reconcile: .reconcile
    case .fleece: .fleece
    case .finishFleecing: .finishFleecing
    }
  }
}

/// What an image that can't be held at its group's moment means for the others.
package enum FailurePolicy: String, Sendable, Codable, CaseIterable {
  /// None is backed up.
  case fail
  case `continue`
}

package struct BackupJobRequest: Hashable, Sendable, Codable {
  /// In the order of the request; each gets the backup id at the same place.
  package var images: [ImageID]
  package var backups: [BackupID]
  package var group: ULID
  package var repository: RepositoryID
  package var kind: RequestedBackupKind
  package var compression: Compression
  /// Bytes per second over all images; 0 = unlimited.
  package var speedLimit: UInt64
  /// Nil means `fail`.
  package var onFailure: FailurePolicy?
  /// Nil means the repository's own.
  package var tracker: TrackerName?
  /// Nil means `breakBackup`.
  package var onTempFull: OnTempFull?
  /// Nil means none.
  package var guestLatencyBudget: GuestLatencyBudget?

  package init(
    images: [ImageID], backups: [BackupID], group: ULID, repository: RepositoryID, kind: RequestedBackupKind,
    compression: Compression, speedLimit: UInt64, onFailure: FailurePolicy? = nil,
    tracker: TrackerName? = nil, onTempFull: OnTempFull? = nil, guestLatencyBudget: GuestLatencyBudget? = nil
  ) {
    self.tracker = tracker
    self.onTempFull = onTempFull
    self.guestLatencyBudget = guestLatencyBudget
    self.onFailure = onFailure
    self.images = images
    self.backups = backups
    self.group = group
    self.repository = repository
    self.kind = kind
    self.compression = compression
    self.speedLimit = speedLimit
  }
}

package enum RestoreTarget: Hashable, Sendable, Codable {
  /// A file that must not exist yet, at an absolute path.
  case newFile(path: String, format: DiskFormat)
  /// Over a registered, detached image; its size must be the backup's.
  case image(ImageID)
  /// Over an export of an NBD server. `targetIsZero`: it reads as zeroes, so that zeroes needn't be written.
  case nbd(uri: String, targetIsZero: Bool)
}

/// One backup of a group, and where it goes.
package struct GroupRestore: Hashable, Sendable, Codable {
  /// That the backup is of.
  package var image: ImageID
  package var backup: BackupID
  package var target: RestoreTarget
  /// Nil for a target that isn't an image: all is written.
  package var mode: RestoreMode?

  package init(image: ImageID, backup: BackupID, target: RestoreTarget, mode: RestoreMode? = nil) {
    self.image = image
    self.backup = backup
    self.target = target
    self.mode = mode
  }
}

/// What a restore over an image writes.
package enum RestoreMode: String, Sendable, Codable, CaseIterable {
  /// What differs, where the image seems to hold much of it already; else all.
  case auto
  case all
  /// What differs from what the image holds, which is read for that.
  case changed
}

package struct JobLogEntry: Hashable, Sendable, Codable {
  package enum Level: String, Sendable, Codable, CaseIterable { case info, warning, error }

  /// Grows within the job, from 1.
  package var sequence: Int
  package var at: Date
  package var level: Level
  package var message: String

  package init(sequence: Int, at: Date, level: Level, message: String) {
    self.sequence = sequence
    self.at = at
    self.level = level
    self.message = message
  }
}
