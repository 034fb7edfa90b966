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
  case full
  /// Everything, as a chain of its own that leaves tracking untouched.
  case copy
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
  package var kind: BackupKind
  package var requestedKind: BackupKind
  /// Why it is of this kind.
  package var reason: String
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
  package var revision: Int

  package init(
    id: BackupID = BackupID(), image: ImageID, repository: RepositoryID, chain: ChainID, sequence: Int = 0,
    group: ULID, kind: BackupKind, requestedKind: BackupKind, reason: String, parent: BackupID? = nil,
    state: State = .running, compression: Compression, consistency: Consistency = .offline, isMixture: Bool = false,
    pointInTime: Date,
    createdAt: Date, finishedAt: Date? = nil, virtualSize: UInt64, dirtyBytes: UInt64 = 0, storedSize: UInt64 = 0,
    merkleRoot: String? = nil, verifiedAt: Date? = nil, verifyLevel: VerifyLevel? = nil, job: JobID? = nil,
    failure: String? = nil, beforeDeletion: BeforeDeletion? = nil, revision: Int = 1
  ) {
    self.id = id
    self.image = image
    self.repository = repository
    self.chain = chain
    self.sequence = sequence
    self.group = group
    self.kind = kind
    self.requestedKind = requestedKind
    self.reason = reason
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
    self.revision = revision
  }
}
