import Foundation

/// What a repository keeps of an image beside its backups: enough to register it again.
package struct ImageRecord: Hashable, Sendable, Codable {
  package var id: ImageID
  package var name: ResourceName
  package var source: ImageSource
  package var format: DiskFormat
  package var labels: [String: String]

  package init(
    id: ImageID, name: ResourceName, source: ImageSource, format: DiskFormat, labels: [String: String]
  ) {
    self.id = id
    self.name = name
    self.source = source
    self.format = format
    self.labels = labels
  }

  package init(_ image: Image) {
    self.init(id: image.id, name: image.name, source: image.source, format: image.format, labels: image.labels)
  }
}

/// Back up images at one moment. All of them are held before the first byte is read.
package struct GroupOrder: Hashable, Sendable, Codable {
  package var backups: [BackupOrder]
  /// Whether an image that can't be held leaves the moment to the others.
  package var continuesAfterFailure: Bool

  package init(_ backups: [BackupOrder], continuesAfterFailure: Bool = false) {
    self.backups = backups
    self.continuesAfterFailure = continuesAfterFailure
  }
}

/// What a backup will be, as decided at its moment.
package struct BackupPlan: Hashable, Sendable, Codable {
  /// What it builds on, which must still have that root when it is published.
  package struct Parent: Hashable, Sendable, Codable {
    package var backup: BackupID
    package var merkleRoot: String

    package init(backup: BackupID, merkleRoot: String) {
      self.backup = backup
      self.merkleRoot = merkleRoot
    }
  }

  /// What is done because no bitmap tells what changed, and why none does.
  package struct Fallback: Hashable, Sendable, Codable {
    package var to: TrackingFallback
    package var reason: FallbackReason

    package init(to: TrackingFallback, reason: FallbackReason) {
      self.to = to
      self.reason = reason
    }
  }

  package var kind: BackupKind
  package var chain: ChainID
  package var sequence: Int
  package var parent: Parent?
  /// Why it is of this kind.
  package var reason: String
  /// Nil where a bitmap tells what changed, and where nothing needs to be told.
  package var fallback: Fallback?
  /// The same for all images of a group.
  package var pointInTime: Date

  package init(
    kind: BackupKind, chain: ChainID, sequence: Int, parent: Parent?, reason: String, fallback: Fallback? = nil,
    pointInTime: Date
  ) {
    self.kind = kind
    self.fallback = fallback
    self.chain = chain
    self.sequence = sequence
    self.parent = parent
    self.reason = reason
    self.pointInTime = pointInTime
  }
}

/// What became of one image of a group by its moment.
package enum BackupBeginning: Hashable, Sendable, Codable {
  /// It is held: to be stored, or abandoned.
  case begun(BackupPlan)
  /// Nothing is held for it, and nothing was written.
  case failed(ProblemDetails)
}

/// One image's part of a group.
package struct BackupOrder: Hashable, Sendable, Codable {
  package var backup: BackupID
  /// The chain that it begins, if it begins one.
  package var newChain: ChainID
  package var group: ULID
  package var kind: RequestedBackupKind
  package var image: ImageRecord
  /// As ``ImageLocation/isExclusive``.
  package var isExclusive: Bool
  package var repository: RepositoryLocation
  /// Whose line of checkpoints it is in; a copy is in none.
  package var tracker: TrackerName
  package var compression: Compression
  /// Backups that nothing is built on: known to be damaged, or being deleted.
  package var unusableParents: Set<BackupID>
  /// Backups in a chain from which on `auto` begins a new one.
  package var chainLength: Int
  /// What made the image a mixture, if it is one: the manifest says so.
  package var mixture: String?
  /// All images of the group, this one among them: the manifest names them. Empty where that isn't known.
  package var groupImages: [ImageID]
  /// Of an attached image.
  package var onTempFull: OnTempFull
  /// Of an attached image; nil: as fast as it goes.
  package var guestLatencyBudget: GuestLatencyBudget?

  /// Unless the configuration says otherwise.
  package static let standardChainLength = 200

  /// - Parameter tracker: nil: the repository's own.
  package init(
    backup: BackupID, newChain: ChainID, group: ULID, kind: RequestedBackupKind, image: ImageRecord,
    isExclusive: Bool = false, repository: RepositoryLocation, tracker: TrackerName? = nil, compression: Compression,
    unusableParents: Set<BackupID> = [],
    chainLength: Int = Self.standardChainLength, mixture: String? = nil, groupImages: [ImageID] = [],
    onTempFull: OnTempFull = .breakBackup, guestLatencyBudget: GuestLatencyBudget? = nil
  ) {
    self.onTempFull = onTempFull
    self.guestLatencyBudget = guestLatencyBudget
    self.backup = backup
    self.newChain = newChain
    self.group = group
    self.kind = kind
    self.unusableParents = unusableParents
    self.chainLength = chainLength
    self.image = image
    self.isExclusive = isExclusive
    self.repository = repository
    self.tracker = tracker ?? .standard(of: repository.id)
    self.compression = compression
    self.mixture = mixture
    self.groupImages = groupImages
  }

  package var location: ImageLocation {
    ImageLocation(source: image.source, format: image.format, isExclusive: isExclusive)
  }
}

/// A backup that is complete: its manifest is durable.
package struct BackupReceipt: Hashable, Sendable, Codable {
  package var pointInTime: Date
  package var finishedAt: Date
  package var virtualSize: UInt64
  package var dirtyBytes: UInt64
  package var storedSize: UInt64
  package var merkleRoot: String
  package var consistency: Consistency
  /// What stands for its moment in a bitmap, and the bytes that one bit of that is for.
  package var checkpoint: ULID?
  package var granularity: Int?
  /// Nil of an image at rest.
  package var guestImpact: GuestImpact?

  package init(
    pointInTime: Date, finishedAt: Date, virtualSize: UInt64, dirtyBytes: UInt64, storedSize: UInt64,
    merkleRoot: String, consistency: Consistency, checkpoint: ULID? = nil, granularity: Int? = nil,
    guestImpact: GuestImpact? = nil
  ) {
    self.guestImpact = guestImpact
    self.checkpoint = checkpoint
    self.granularity = granularity
    self.pointInTime = pointInTime
    self.finishedAt = finishedAt
    self.virtualSize = virtualSize
    self.dirtyBytes = dirtyBytes
    self.storedSize = storedSize
    self.merkleRoot = merkleRoot
    self.consistency = consistency
  }
}

/// Where one stored backup lies: repository, image's and chain's folder, place in the chain.
package struct StoredBackupLocation: Hashable, Sendable, Codable {
  package var repository: RepositoryLocation
  package var image: ImageID
  package var chain: ChainID
  package var sequence: Int
  package var backup: BackupID

  package init(
    repository: RepositoryLocation, image: ImageID, chain: ChainID, sequence: Int, backup: BackupID
  ) {
    self.repository = repository
    self.image = image
    self.chain = chain
    self.sequence = sequence
    self.backup = backup
  }
}

package struct VerifyOrder: Hashable, Sendable, Codable {
  package var backup: StoredBackupLocation
  package var level: VerifyLevel
  /// Whether the tables of the backups below are checked too. Whoever verifies a chain has looked at each by itself.
  package var coversTablesBelow: Bool

  package init(backup: StoredBackupLocation, level: VerifyLevel, coversTablesBelow: Bool = true) {
    self.backup = backup
    self.level = level
    self.coversTablesBelow = coversTablesBelow
  }
}

/// What verification found. An error of the storage is thrown instead: it says nothing about the backup.
package struct VerifyReport: Hashable, Sendable, Codable {
  /// Each a sentence that names the file and the place; empty if the backup is sound. At most
  /// ``maximumFindingCount``.
  package var findings: [String]
  /// How many there were in all.
  package var findingCount: Int
  package var verifiedBytes: UInt64

  package static let maximumFindingCount = 100

  package init(findings: [String], findingCount: Int, verifiedBytes: UInt64) {
    self.findings = findings
    self.findingCount = findingCount
    self.verifiedBytes = verifiedBytes
  }
}

/// A stored backup that isn't what was backed up.
package struct BackupDamage: Hashable, Sendable, Codable {
  /// The lowest of a chain that is wrong; what builds on it is, too.
  package var backup: BackupID
  /// A sentence that names the file and the place.
  package var detail: String

  package init(backup: BackupID, detail: String) {
    self.backup = backup
    self.detail = detail
  }
}

/// What a restore of a backup reads, and what keeps it from being restored.
package struct RestorePath: Hashable, Sendable, Codable {
  /// From the full to the backup itself; from what builds on a missing one on, where one is missing.
  package var backups: [BackupID]
  /// Each a sentence that names the file; at most ``VerifyReport/maximumFindingCount``.
  package var findings: [String]
  /// How many there were in all.
  package var findingCount: Int

  package init(backups: [BackupID], findings: [String] = [], findingCount: Int = 0) {
    self.backups = backups
    self.findings = findings
    self.findingCount = findingCount
  }
}

package struct RestoreOrder: Hashable, Sendable, Codable {
  package enum Target: Hashable, Sendable, Codable {
    /// A file that must not exist; it appears under its name only when it is whole.
    case newFile(path: String, format: DiskFormat)
    /// An existing image, overwritten in place.
    case image(ImageLocation)
    /// An export of an NBD server, overwritten in place. `targetIsZero`: zeroes needn't be written.
    case nbd(uri: String, targetIsZero: Bool)
  }

  package var backup: StoredBackupLocation
  package var target: Target
  /// What is written; of an image only it may be another than `all`.
  package var mode: RestoreMode

  package init(backup: StoredBackupLocation, target: Target, mode: RestoreMode = .all) {
    self.backup = backup
    self.target = target
    self.mode = mode
  }
}

/// What a restore over an image writes, as it was decided.
package struct RestoreChoice: Hashable, Sendable, Codable {
  /// `all` or `changed`.
  package var mode: RestoreMode
  /// Why, as part of a sentence.
  package var why: String

  package init(mode: RestoreMode, why: String) {
    self.mode = mode
    self.why = why
  }
}

package struct RestoreReport: Hashable, Sendable, Codable {
  package var virtualSize: UInt64
  /// Bytes that were written because they aren't zero.
  package var writtenBytes: UInt64
  /// `all` or `changed`.
  package var mode: RestoreMode

  package init(virtualSize: UInt64, writtenBytes: UInt64, mode: RestoreMode = .all) {
    self.virtualSize = virtualSize
    self.writtenBytes = writtenBytes
    self.mode = mode
  }
}

/// What a repository holds, read from its files alone.
package struct RepositoryScan: Hashable, Sendable, Codable {
  package var images: [ImageRecord]
  package var chains: [Chain]
  /// The fields that only a catalog knows (job, verification) are nil.
  package var backups: [Backup]
  /// Backups whose manifest is there and can't be read; each is among the findings.
  package var unreadable: Set<BackupID>
  /// Sentences on files that couldn't be read or belong to nothing; nothing was changed.
  package var findings: [String]

  package init(
    images: [ImageRecord], chains: [Chain], backups: [Backup], unreadable: Set<BackupID> = [], findings: [String]
  ) {
    self.images = images
    self.chains = chains
    self.backups = backups
    self.unreadable = unreadable
    self.findings = findings
  }
}

/// How a repository was found that could be opened.
package enum RepositoryAccess: String, Hashable, Sendable, Codable {
  case readWrite
  /// Its storage takes no writes.
  case readOnly
}

package struct RecoveryReport: Hashable, Sendable, Codable {
  /// Paths within the repository of the work files that were removed.
  package var removed: [String]
  /// Finished files without a manifest, moved aside.
  package var quarantined: [String]
  /// Where it is read-only, nothing was put right.
  package var access: RepositoryAccess

  package init(removed: [String], quarantined: [String], access: RepositoryAccess = .readWrite) {
    self.removed = removed
    self.quarantined = quarantined
    self.access = access
  }
}

/// Has an image's tracker count from the parent of the backup that it counts from, which is to be deleted.
package struct CheckpointReturn: Hashable, Sendable, Codable {
  package enum Outcome: Hashable, Sendable, Codable {
    /// It counts from the parent: what the backup stored counts as changed.
    case returned
    /// It counts from another backup, or there is none: nothing is done.
    case unconcerned
    /// It can't, for this reason: the next backup compares by hash.
    case impossible(String)
  }

  package var backup: StoredBackupLocation
  package var parent: StoredBackupLocation
  package var image: ImageLocation
  package var tracker: TrackerName
  /// Only find out whether it can be done.
  package var isRehearsal: Bool

  package init(
    backup: StoredBackupLocation, parent: StoredBackupLocation, image: ImageLocation, tracker: TrackerName,
    isRehearsal: Bool = false
  ) {
    self.backup = backup
    self.parent = parent
    self.image = image
    self.tracker = tracker
    self.isRehearsal = isRehearsal
  }
}
