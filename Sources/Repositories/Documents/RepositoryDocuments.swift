import Bytes
import Foundation
import Model

/// `repository.json`: what makes a folder a repository.
package struct RepositoryDocument: CheckedDocument {
  package static let currentFormatVersion = 1

  package var formatVersion = Self.currentFormatVersion
  package var kind = "directory"
  package var id: RepositoryID
  package var createdAt: Date
  package var checksum = ""

  package init(id: RepositoryID, createdAt: Date) {
    self.id = id
    self.createdAt = createdAt
  }
}

/// Where an image's bytes are, as a repository keeps it: `kind` with `path`, or with `uri` for an NBD export.
package struct StoredImageSource: Codable, Hashable, Sendable {
  private enum Kind: String, Codable { case file, device, nbd }
  private enum CodingKeys: CodingKey { case kind, path, uri }

  package var source: ImageSource

  package init(_ source: ImageSource) { self.source = source }

  package init(from decoder: any Decoder) throws {
    let container = try decoder.container(keyedBy: CodingKeys.self)
    switch try container.decode(Kind.self, forKey: .kind) {
    case .file: source = .file(path: try container.decode(String.self, forKey: .path))
    case .device: source = .device(path: try container.decode(String.self, forKey: .path))
    case .nbd: source = .nbd(uri: try container.decode(String.self, forKey: .uri))
    }
  }

  package func encode(to encoder: any Encoder) throws {
    var container = encoder.container(keyedBy: CodingKeys.self)
    switch source {
    case .file(let path):
      try container.encode(Kind.file, forKey: .kind)
      try container.encode(path, forKey: .path)
    case .device(let path):
      try container.encode(Kind.device, forKey: .kind)
      try container.encode(path, forKey: .path)
    case .nbd(let uri):
      try container.encode(Kind.nbd, forKey: .kind)
      try container.encode(uri, forKey: .uri)
    }
  }
}

/// `image.json`: what an image is called and where it was, so that it can be registered again.
package struct ImageDocument: CheckedDocument {
  package static let currentFormatVersion = 1

  package var formatVersion = Self.currentFormatVersion
  package var id: ImageID
  package var name: ResourceName
  package var source: StoredImageSource
  package var format: DiskFormat
  package var labels: [String: String]
  package var checksum = ""

  package init(_ record: ImageRecord) {
    id = record.id
    name = record.name
    source = StoredImageSource(record.source)
    format = record.format
    labels = record.labels
  }

  package var record: ImageRecord {
    ImageRecord(id: id, name: name, source: source.source, format: format, labels: labels)
  }
}

/// `NNNN-<backup id>.json`: written last, it says that the backup is complete.
///
/// It commits to what the guest sees (`virtualSize`, `merkleRoot`, and the parent's root), never to how the files are
/// laid out, so that these can be merged or moved later under the same name.
package struct Manifest: CheckedDocument {
  package static let currentFormatVersion = 1

  package struct Parent: Codable, Hashable, Sendable {
    package var backup: BackupID
    package var merkleRoot: String
  }

  /// Reserved: nothing is encrypted in version 1, and the member is always null.
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
  package var requestedKind: BackupKind
  package var reason: String
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
  package var checksum = ""

  package init(
    order: BackupOrder, sequence: Int, parent: Parent?, consistency: Consistency, pointInTime: Date, createdAt: Date,
    finishedAt: Date, virtualSize: UInt64, dirtyBytes: UInt64, merkleRoot: Digest
  ) {
    repository = order.repository.id
    image = order.image.id
    imageName = order.image.name
    chain = order.chain
    self.sequence = sequence
    backup = order.backup
    group = order.group
    kind = order.kind
    requestedKind = order.kind
    reason = order.reason
    self.parent = parent
    compression = order.compression
    self.consistency = consistency
    self.pointInTime = Timestamp.rounded(pointInTime)
    self.createdAt = Timestamp.rounded(createdAt)
    self.finishedAt = Timestamp.rounded(finishedAt)
    self.virtualSize = virtualSize
    self.dirtyBytes = dirtyBytes
    self.merkleRoot = merkleRoot.description
    mixture = order.isMixture ? true : nil
  }

  /// The root; damage if the text isn't one.
  package func root() throws(DocumentDamage) -> Digest {
    guard let root = Digest(hexadecimal: merkleRoot) else { throw DocumentDamage("its merkleRoot isn't a SHA-256") }
    guard grainSize == HashTree.grainByteCount else { throw DocumentDamage("its grain isn't 65536 bytes") }
    guard virtualSize <= UInt64(Int64.max) else { throw DocumentDamage("its virtualSize is impossible") }
    return root
  }

  /// The entity that a catalog keeps of it.
  package func entity(storedSize: UInt64) -> Backup {
    Backup(
      id: backup, image: image, repository: repository, chain: chain, sequence: sequence, group: group, kind: kind,
      requestedKind: requestedKind, reason: reason, parent: parent?.backup, state: .complete,
      compression: compression, consistency: consistency, isMixture: mixture ?? false,
      pointInTime: pointInTime, createdAt: createdAt,
      finishedAt: finishedAt, virtualSize: virtualSize, dirtyBytes: dirtyBytes, storedSize: storedSize,
      merkleRoot: merkleRoot)
  }
}

extension Manifest {
  private enum CodingKeys: String, CodingKey {
    case formatVersion, repository, image, imageName, chain, sequence, backup, group, kind, requestedKind, reason
    case parent, compression, consistency, pointInTime, createdAt, finishedAt, virtualSize, dirtyBytes, grainSize
    case merkleRoot, encryption, mixture, checksum
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
    try container.encode(checksum, forKey: .checksum)
  }
}
