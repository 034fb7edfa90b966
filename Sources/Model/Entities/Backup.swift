import Foundation

/// A full backup and what depends on it, in one repository.
package struct Chain: Hashable, Sendable, Codable {
  package let id: ChainID
  package var image: ImageID
  /// The image's last known name: the image itself may be unregistered by now.
  package var imageName: ResourceName
  package var repository: RepositoryID
  package var createdAt: Date

  package init(
    id: ChainID = ChainID(), image: ImageID, imageName: ResourceName, repository: RepositoryID, createdAt: Date
  ) {
    self.id = id
    self.image = image
    self.imageName = imageName
    self.repository = repository
    self.createdAt = createdAt
  }
}

/// What a backup holds: everything, or what changed since another one.
package enum BackupKind: String, Sendable, Codable, CaseIterable {
  /// Everything; it begins a chain.
  case full
  /// What changed since the backup before it.
  case incremental
  /// What changed since the full of its chain.
  case differential
  /// Everything, as a chain of its own that leaves tracking untouched.
  case copy

  package var beginsChain: Bool { self == .full || self == .copy }
}

/// What may be asked for: a kind, or to choose one.
package enum RequestedBackupKind: String, Sendable, Codable, CaseIterable {
  case full, incremental, differential, copy
  /// Incremental, or a full where a chain begins: the first one, and after so many links.
  case auto

  /// The first part of a backup's reason.
  package var words: String {
    switch self {
    case .full: "a full backup was asked for"
    case .incremental: "an incremental backup was asked for"
    case .differential: "a differential backup was asked for"
    case .copy: "a copy was asked for: everything, as a chain of its own"
    case .auto: "the chain goes on"
    }
  }
}

/// How it was found what had changed, where no bitmap told it.
package enum TrackingFallback: String, Sendable, Codable, CaseIterable {
  /// Everything was read and compared with the parent's hashes; what differed was stored.
  case hash
  /// Not at all: everything was stored, as a full.
  case full
}

/// Why no bitmap told what had changed.
package enum FallbackReason: String, Sendable, Codable, CaseIterable {
  /// There is no backup to build on.
  case noParent = "no-parent"
  case bitmapInconsistent = "bitmap-inconsistent"
  case bitmapMissing = "bitmap-missing"
  case trackingLost = "tracking-lost"
  case uncleanStop = "unclean-stop"
  case snapshotReverted = "snapshot-reverted"
  case sizeChanged = "size-changed"
  case granularityChanged = "granularity-changed"
  /// The backup that would be built on, or one below it, is gone or damaged.
  case parentMissing = "parent-missing"
  case identityChanged = "identity-changed"
  case sampledCheckFailed = "sampled-check-failed"
}

package enum Compression: String, Sendable, Codable, CaseIterable {
  case zstd, none
}

package enum VerifyLevel: String, Sendable, Codable, CaseIterable {
  /// The manifest, sizes, the chain, and the qcow2's own tables.
  case metadata
  /// Every cluster against its hash.
  case checksum
}

/// How much the bytes agree with each other at the point in time.
package enum Consistency: String, Sendable, Codable, CaseIterable {
  /// No program had the image open for writing.
  case offline
  /// As after a power cut.
  case crash
  /// File systems were frozen.
  case filesystem
}

/// One stored result: what the image held at a point in time.
package struct Backup: Hashable, Sendable, Codable {
  package enum State: String, Sendable, Codable, CaseIterable {
    case running, complete, failed
    /// Verification found it damaged.
    case corrupt
    case expired
  }

  /// What a backup was when its deletion began: what it is again if it turns out to be whole.
  package struct BeforeDeletion: Hashable, Sendable, Codable {
    package var state: State
    package var failure: String?

    package init(state: State, failure: String?) {
      self.state = state
      self.failure = failure
    }
  }

  package let id: BackupID
  package var image: ImageID
  package var repository: RepositoryID
  package var chain: ChainID
  /// Place in the chain, from 0.
  package var sequence: Int
  /// The same for all images of one point in time.
  package var group: ULID
  /// All images of the group, this one among them. Empty where that isn't known: then only this one counts.
  package var groupImages: [ImageID]
  package var kind: BackupKind
  package var requestedKind: RequestedBackupKind
  /// Why it is of this kind.
  package var reason: String
  /// Nil where a bitmap told what had changed, and where nothing needed to be told.
  package var trackingFallback: TrackingFallback?
  /// There with ``trackingFallback``.
  package var fallbackReason: FallbackReason?
  /// Whose line of checkpoints it is in; nil for a copy.
  package var tracker: TrackerName?
  /// What stands for its moment in a bitmap; nil where no bitmap could count from it.
  package var checkpoint: ULID?
  /// Of that bitmap, in bytes.
  package var granularity: Int?
  package var parent: BackupID?
  package var state: State
  package var compression: Compression
  package var consistency: Consistency
  /// Whether the image was a mixture, see ``Image/Damage``.
  package var isMixture: Bool
  /// When the guest's data was as stored.
  package var pointInTime: Date
  package var createdAt: Date
  package var finishedAt: Date?
  /// Bytes the guest sees.
  package var virtualSize: UInt64
  /// Bytes that were copied because they weren't zero.
  package var dirtyBytes: UInt64
  /// Bytes the backup takes in the repository, all its files.
  package var storedSize: UInt64
  /// The root of the hash tree over the guest's data, in lower-case hexadecimal.
  package var merkleRoot: String?
  package var verifiedAt: Date?
  package var verifyLevel: VerifyLevel?
  /// The job that made it.
  package var job: JobID?
  /// Why it failed or what verification found.
  package var failure: String?
  /// Nil unless its deletion began and what became of it isn't settled; its state is `failed` then.
  package var beforeDeletion: BeforeDeletion?
  /// What it cost the guest; nil of an image at rest, and where only the repository is known.
  package var guestImpact: GuestImpact?
  package var revision: Int

  package init(
    id: BackupID = BackupID(), image: ImageID, repository: RepositoryID, chain: ChainID, sequence: Int = 0,
    group: ULID, groupImages: [ImageID] = [], kind: BackupKind, requestedKind: RequestedBackupKind, reason: String,
    trackingFallback: TrackingFallback? = nil, fallbackReason: FallbackReason? = nil, tracker: TrackerName? = nil,
    checkpoint: ULID? = nil, granularity: Int? = nil, parent: BackupID? = nil,
    state: State = .running, compression: Compression, consistency: Consistency = .offline,
    isMixture: Bool = false, pointInTime: Date, createdAt: Date, finishedAt: Date? = nil, virtualSize: UInt64,
    dirtyBytes: UInt64 = 0, storedSize: UInt64 = 0,
    merkleRoot: String? = nil, verifiedAt: Date? = nil, verifyLevel: VerifyLevel? = nil, job: JobID? = nil,
    failure: String? = nil, beforeDeletion: BeforeDeletion? = nil, guestImpact: GuestImpact? = nil, revision: Int = 1
  ) {
    self.id = id
    self.image = image
    self.repository = repository
    self.chain = chain
    self.sequence = sequence
    self.group = group
    self.groupImages = groupImages
    self.kind = kind
    self.requestedKind = requestedKind
    self.reason = reason
    self.trackingFallback = trackingFallback
    self.fallbackReason = fallbackReason
    self.tracker = tracker
    self.checkpoint = checkpoint
    self.granularity = granularity
    self.parent = parent
    self.state = state
    self.compression = compression
    self.consistency = consistency
    self.isMixture = isMixture
    self.pointInTime = pointInTime
    self.createdAt = createdAt
    self.finishedAt = finishedAt
    self.virtualSize = virtualSize
    self.dirtyBytes = dirtyBytes
    self.storedSize = storedSize
    self.merkleRoot = merkleRoot
    self.verifiedAt = verifiedAt
    self.verifyLevel = verifyLevel
    self.job = job
    self.failure = failure
    self.beforeDeletion = beforeDeletion
    self.guestImpact = guestImpact
    self.revision = revision
  }
}
