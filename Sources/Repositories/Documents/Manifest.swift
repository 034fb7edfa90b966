import Bytes
import Foundation
import Model

/// `NNNN-<backup id>.json`: written last, it says that the backup is complete.
///
/// It commits to what the guest sees (`virtualSize`, `merkleRoot`, and the parent's root), never to how the files are
/// laid out, so that these can be merged or moved later under the same name.
///
/// Members may be added without a new format version: they are optional, what was written before has none of them, and
/// readers ignore those that they don't know.
package struct Manifest: CheckedDocument {
  package static let currentFormatVersion = 1
  /// Places in a chain: as many as the four digits in front of a file's name tell apart.
  package static let sequences = 0...9999

  package struct Parent: Codable, Hashable, Sendable {
    package var backup: BackupID
    /// The parent's root when this backup was made: what it builds on must still have it.
    package var merkleRoot: String

    package init(backup: BackupID, merkleRoot: String) {
      self.backup = backup
      self.merkleRoot = merkleRoot
    }
  }

  /// What had the backup made: a person, or a policy.
  package struct Maker: Codable, Hashable, Sendable {
    /// `hand` or `policy`; later versions may know others.
    package var by: String
    /// The policy's id, and its name at that time.
    package var policy: String?
    package var policyName: String?

    package static let hand = Maker(by: "hand")

    package init(by: String, policy: String? = nil, policyName: String? = nil) {
      self.by = by
      self.policy = policy
      self.policyName = policyName
    }
  }

  /// Reserved: nothing is encrypted in version 1, and the member is always null; a backup that has it isn't read.
  package struct Encryption: Codable, Hashable, Sendable {}

  package var formatVersion = Self.currentFormatVersion
  package var repository: RepositoryID
  package var image: ImageID
  package var imageName: ResourceName
  package var chain: ChainID
  package var sequence: Int
  package var backup: BackupID
  package var group: ULID
  package var kind: BackupKind
  package var requestedKind: RequestedBackupKind
  package var reason: String
  /// There if no bitmap told what had changed, and why none did.
  package var trackingFallback: String?
  package var fallbackReason: String?
  package var parent: Parent?
  package var compression: Compression
  package var consistency: Consistency
  package var pointInTime: Date
  package var createdAt: Date
  package var finishedAt: Date
  /// Bytes the guest sees.
  package var virtualSize: UInt64
  /// Bytes that were copied because they weren't zero.
  package var dirtyBytes: UInt64
  /// Of the hash tree, in bytes.
  package var grainSize = HashTree.grainByteCount
  package var merkleRoot: String
  package var encryption: Encryption?
  /// There and true if the image was a mixture of what it held and of what a restore left half done; else absent.
  package var mixture: Bool?
  package var madeBy: Maker?
  /// Whose line of checkpoints it is in. Absent from copies, and from manifests that were written when there was the
  /// repository's own alone.
  package var tracker: String?
  /// The id of the checkpoint that stands for this moment: what changed later is tracked since then.
  package var checkpoint: ULID?
  /// Of the bitmap that counts from the checkpoint, in bytes.
  package var granularity: Int?
  /// Granules that the bitmap of the checkpoint has from the start: one that is missing says that it was cleared.
  package var marks: [UInt64]?
  /// All images of the group, this one among them, so that each manifest tells of members that failed or are lost. Nil
  /// where they aren't known.
  package var groupImages: [ImageID]?
  package var checksum = ""

  package init(
    order: BackupOrder, plan: BackupPlan, consistency: Consistency, createdAt: Date, finishedAt: Date,
    virtualSize: UInt64, dirtyBytes: UInt64, merkleRoot: Digest
  ) {
    repository = order.repository.id
    image = order.image.id
    imageName = order.image.name
    chain = plan.chain
    sequence = plan.sequence
    backup = order.backup
    group = order.group
    kind = plan.kind
    requestedKind = order.kind
    reason = plan.reason
    trackingFallback = plan.fallback?.to.rawValue
    fallbackReason = plan.fallback?.reason.rawValue
    parent = plan.parent.map { Parent(backup: $0.backup, merkleRoot: $0.merkleRoot) }
    compression = order.compression
    self.consistency = consistency
    self.pointInTime = Timestamp.rounded(plan.pointInTime)
    self.createdAt = Timestamp.rounded(createdAt)
    self.finishedAt = Timestamp.rounded(finishedAt)
    self.virtualSize = virtualSize
    self.dirtyBytes = dirtyBytes
    self.merkleRoot = merkleRoot.description
    mixture = order.mixture == nil ? nil : true
    madeBy = .hand
    groupImages = order.groupImages.isEmpty ? nil : order.groupImages
    tracker = plan.kind == .copy ? nil : order.tracker.text
  }

  /// Whose line of checkpoints it is in; nil for a copy, and for a name that this version doesn't know.
  package var trackerName: TrackerName? {
    guard kind != .copy else { return nil }
    return tracker.map(TrackerName.init) ?? .standard(of: repository)
  }

  /// The root; damage if the text isn't one.
  package func root() throws(DocumentDamage) -> Digest {
    guard let root = Digest(hexadecimal: merkleRoot) else { throw DocumentDamage("its merkleRoot isn't a SHA-256") }
    guard encryption == nil else { throw DocumentDamage("it is encrypted, which this version can't read") }
    guard grainSize == HashTree.grainByteCount else { throw DocumentDamage("its grain isn't 65536 bytes") }
    guard virtualSize <= UInt64(Int64.max) else { throw DocumentDamage("its virtualSize is impossible") }
    guard Self.sequences.contains(sequence) else { throw DocumentDamage("its sequence is impossible") }
    return root
  }

  /// Where the backup lies.
  package func location(in repository: RepositoryLocation) -> StoredBackupLocation {
    StoredBackupLocation(
      repository: repository, image: image, chain: chain, sequence: sequence, backup: backup)
  }

  /// The entity that a catalog keeps of it.
  package func entity(storedSize: UInt64) -> Backup {
    Backup(
      id: backup, image: image, repository: repository, chain: chain, sequence: sequence, group: group,
      groupImages: groupImages ?? [], kind: kind, requestedKind: requestedKind, reason: reason,
      trackingFallback: trackingFallback.flatMap(TrackingFallback.init),
      fallbackReason: fallbackReason.flatMap(FallbackReason.init), tracker: trackerName, checkpoint: checkpoint,
      granularity: granularity, parent: parent?.backup, state: .complete,
      compression: compression, consistency: consistency,
      isMixture: mixture ?? false,
      pointInTime: pointInTime, createdAt: createdAt,
      finishedAt: finishedAt, virtualSize: virtualSize, dirtyBytes: dirtyBytes, storedSize: storedSize,
      merkleRoot: merkleRoot)
  }
}

extension Manifest {
  private enum CodingKeys: String, CodingKey {
    case formatVersion, repository, image, imageName, chain, sequence, backup, group, kind, requestedKind, reason
    case parent, compression, consistency, pointInTime, createdAt, finishedAt, virtualSize, dirtyBytes, grainSize
    case merkleRoot, encryption, mixture, trackingFallback, fallbackReason, madeBy, tracker, checkpoint, granularity
    case marks
    case groupImages, checksum
  }

  // By hand only so that what is nil is written as null: a reader sees that there is a place for it.
  package func encode(to encoder: any Encoder) throws {
    var container = encoder.container(keyedBy: CodingKeys.self)
    try container.encode(formatVersion, forKey: .formatVersion)
    try container.encode(repository, forKey: .repository)
    try container.encode(image, forKey: .image)
    try container.encode(imageName, forKey: .imageName)
    try container.encode(chain, forKey: .chain)
    try container.encode(sequence, forKey: .sequence)
    try container.encode(backup, forKey: .backup)
    try container.encode(group, forKey: .group)
    try container.encode(kind, forKey: .kind)
    try container.encode(requestedKind, forKey: .requestedKind)
    try container.encode(reason, forKey: .reason)
    try container.encode(parent, forKey: .parent)
    try container.encode(compression, forKey: .compression)
    try container.encode(consistency, forKey: .consistency)
    try container.encode(pointInTime, forKey: .pointInTime)
    try container.encode(createdAt, forKey: .createdAt)
    try container.encode(finishedAt, forKey: .finishedAt)
    try container.encode(virtualSize, forKey: .virtualSize)
    try container.encode(dirtyBytes, forKey: .dirtyBytes)
    try container.encode(grainSize, forKey: .grainSize)
    try container.encode(merkleRoot, forKey: .merkleRoot)
    try container.encode(encryption, forKey: .encryption)
    try container.encodeIfPresent(mixture, forKey: .mixture)
    try container.encodeIfPresent(trackingFallback, forKey: .trackingFallback)
    try container.encodeIfPresent(fallbackReason, forKey: .fallbackReason)
    try container.encodeIfPresent(madeBy, forKey: .madeBy)
    try container.encodeIfPresent(tracker, forKey: .tracker)
    try container.encodeIfPresent(checkpoint, forKey: .checkpoint)
    try container.encodeIfPresent(granularity, forKey: .granularity)
    try container.encodeIfPresent(marks, forKey: .marks)
    try container.encodeIfPresent(groupImages, forKey: .groupImages)
    try container.encode(checksum, forKey: .checksum)
  }
}
