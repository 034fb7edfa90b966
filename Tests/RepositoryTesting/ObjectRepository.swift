import BlockCore
import BlockTesting
import Buffers
import EventLoops
import Foundation
import Model
import Qcow2
import Repositories

/// A kind of repository beside folders, as an object store could be one: it shows what the port asks for, and no more.
///
///     repository                                   its id
///     image/<image>                                what the image is called
///     manifest/<image>/<chain>/<sequence>-<backup>
///     data/<backup>, hashes/<backup>
///     stage/<writer>/<job>/<backup>                a backup that is being written
///     deleted/<backup>
///     lease/<image>                                epoch, writer; empty writer: free
package struct ObjectRepositories: RepositoryKind {
  let store: ObjectStore
  let writer: ULID

  package init(_ store: ObjectStore, writer: ULID) {
    self.store = store
    self.writer = writer
  }

  nonisolated(nonsending)
    package func open(_ location: RepositoryLocation, on loop: EventLoop) async throws -> any BackupRepository
  {
    guard store.bytes("repository") == Array("\(location.id)".utf8) else {
      throw DomainError(.repositoryUnavailable, "no repository \(location.id) at \(location.path)")
    }
    return ObjectRepository(location: location, store: store, writer: writer)
  }

  nonisolated(nonsending)
    package func establish(
      at path: String, id: RepositoryID, now: Date, on loop: EventLoop
    ) async throws -> EstablishedRepository
  {
    _ = store.putIfAbsent(.bytes(Array("\(id)".utf8)), at: "repository")
    guard let text = store.bytes("repository"), let found = RepositoryID(String(decoding: text, as: UTF8.self)) else {
      throw DomainError(.repositoryMismatch, "\(path) holds something else")
    }
    return EstablishedRepository(id: found, repair: nil)
  }
}

private struct ObjectRepository: BackupRepository {
  let location: RepositoryLocation
  let store: ObjectStore
  let writer: ULID
  var repair: String? { nil }

  static func key(_ backup: StoredBackupLocation) -> String {
    "manifest/\(backup.image)/\(backup.chain)/\(backup.sequence)-\(backup.backup)"
  }

  static func key(_ file: StoredFile, _ backup: BackupID) -> String {
    switch file {
    case .data: "data/\(backup)"
    case .hashes: "hashes/\(backup)"
    }
  }

  func name(of backup: StoredBackupLocation) -> String { "\(location.path): \(Self.key(backup))" }

  func name(of file: StoredFile, _ backup: StoredBackupLocation) -> String {
    "\(location.path): \(Self.key(file, backup.backup))"
  }

  nonisolated(nonsending)
    func access() async throws -> RepositoryAccess
  { .readWrite }

  private func manifests(_ image: ImageID? = nil) -> [Manifest] {
    store.keys(image.map { "manifest/\($0)/" } ?? "manifest/").compactMap { key in
      store.bytes(key).flatMap { try? CheckedDocumentCodec.decode(Manifest.self, from: $0) }
    }
  }

  nonisolated(nonsending)
    func scan() async throws -> RepositoryScan
  {
    let manifests = manifests()
    var scan = RepositoryScan(images: [], chains: [], backups: [], findings: [])
    for key in store.keys("image/") {
      guard let bytes = store.bytes(key) else { continue }
      scan.images.append(try CheckedDocumentCodec.decode(ImageDescription.self, from: bytes).record)
    }
    for manifest in manifests {
      scan.backups.append(manifest.entity(storedSize: 1))
      guard !scan.chains.contains(where: { $0.id == manifest.chain }) else { continue }
      let name = scan.images.first { $0.id == manifest.image }?.name ?? manifest.imageName
      scan.chains.append(
        Chain(
          id: manifest.chain, image: manifest.image, imageName: name, repository: location.id,
          createdAt: manifest.chain.ulid.date))
    }
    let known = Set(manifests.map { "\($0.backup)" })
    let strays = (store.keys("data/") + store.keys("hashes/")).filter { !known.contains(FilePath.name(of: $0)) }
    scan.findings = (store.keys("stage/") + strays).map { "\($0) belongs to no backup" }
    return scan
  }

  nonisolated(nonsending)
    func recover(isLive: @escaping @Sendable (JobID) -> Bool) async throws -> RecoveryReport
  {
    var removed: [String] = []
    for key in store.keys("stage/\(writer)/") {
      let parts = key.split(separator: "/")
      guard let job = JobID(parts[2]), let backup = BackupID(parts[3]), !isLive(job) else { continue }
      for key in StoredFile.allCases.map({ Self.key($0, backup) }) + [key] where store.remove(key) {
        removed.append(key)
      }
    }
    return RecoveryReport(removed: removed, quarantined: [])
  }

  nonisolated(nonsending)
    func record(_ image: ImageRecord, job: JobID) async throws
  {
    guard store.object("image/\(image.id)") != nil else { return }
    store.put(.bytes(try CheckedDocumentCodec.encode(ImageDescription(image))), at: "image/\(image.id)")
  }

  nonisolated(nonsending)
    func manifest(of backup: StoredBackupLocation) async throws -> Manifest
  {
    guard let bytes = store.bytes(Self.key(backup)) else {
      let isDeleted = store.object("deleted/\(backup.backup)") != nil
      throw DomainError(
        .backupNotComplete, "the backup \(backup.backup) \(isDeleted ? "was deleted" : "has no manifest")")
    }
    do {
      return try CheckedDocumentCodec.decode(Manifest.self, from: bytes)
    } catch {
      throw DomainError(.backupCorrupt, "\(name(of: backup)): \(error.text)")
    }
  }

  private func device(_ key: String) throws -> any BlockDevice {
    guard case .image(let image) = store.object(key) else {
      throw DomainError(.backupCorrupt, "\(location.path): \(key) is missing")
    }
    return MemoryDevice(image)
  }

  nonisolated(nonsending)
    func openHashes(of backup: StoredBackupLocation) async throws -> any BlockDevice
  { try device(Self.key(.hashes, backup.backup)) }

  nonisolated(nonsending)
    func openData(of manifest: Manifest, at backup: StoredBackupLocation) async throws -> any BlockDevice
  { try await openImage("\(backup.backup)", depth: 0) }

  nonisolated(nonsending)
    func openTables(of backup: StoredBackupLocation) async throws -> Qcow2Image?
  {
    try await Qcow2Image.open(
      try device("data/\(backup.backup)"), options: .init(), backing: .ignored, work: InlineWork(), pool: BufferPool())
  }

  private func openImage(_ backup: String, depth: Int) async throws -> Qcow2Image {
    try await Qcow2Image.open(
      try device("data/\(backup)"), options: .init(depth: depth),
      backing: .resolve { reference in try await openImage(reference.name, depth: reference.depth) },
      work: InlineWork(), pool: BufferPool())
  }

  nonisolated(nonsending)
    func parent(of backup: StoredBackup) async throws -> StoredBackup?
  {
    guard let parent = backup.manifest.parent else { return nil }
    let found = manifests(backup.manifest.image).first { $0.backup == parent.backup }
    guard let found, found.merkleRoot == parent.merkleRoot else {
      throw DomainError(.backupCorrupt, "the parent of \(backup.manifest.backup) isn't what it was")
    }
    return StoredBackup(manifest: found, location: found.location(in: location), repository: self)
  }

  nonisolated(nonsending)
    func ancestry(of backup: StoredBackup) async throws -> [StoredBackup]
  {
    var ancestry: [StoredBackup] = []
    while let parent = try await parent(of: ancestry.last ?? backup) {
      guard ancestry.count < Manifest.sequences.count else { throw DomainError(.backupCorrupt, "it leads back") }
      ancestry.append(parent)
    }
    return ancestry
  }

  nonisolated(nonsending)
    func newestChain(of image: ImageID, tracker: TrackerName) async throws -> StoredChain?
  {
    let chains = Dictionary(grouping: manifests(image), by: \.chain)
    let newest = chains.filter { $0.value.allSatisfy { $0.trackerName == tracker } }.max { $0.key < $1.key }
    return newest.map { id, manifests in
      StoredChain(id, manifests, brokenCount: 0, lastSequence: manifests.map(\.sequence).max() ?? 0)
    }
  }

  func backingName(_ parent: StoredBackupLocation) -> String { "\(parent.backup)" }

  nonisolated(nonsending)
    func takeLease(on image: ImageID, control: any JobControl) async throws -> any RepositoryLease
  {
    var epoch: UInt64 = 0
    let isTaken = store.replace("lease/\(image)") { found in
      var parts: [Substring] = []
      if case .bytes(let bytes) = found { parts = String(decoding: bytes, as: UTF8.self).split(separator: " ") }
      guard parts.count < 2 else { return nil }
      epoch = (parts.first.flatMap { UInt64($0) } ?? 0) + 1
      return .bytes(Array("\(epoch) \(writer)".utf8))
    }
    guard isTaken else { throw DomainError(.repositoryLeased, "somebody writes to the backups of \(image)") }
    return ObjectLease(repository: self, image: image, epoch: epoch)
  }

  nonisolated(nonsending)
    func delete(_ backup: StoredBackupLocation, control: any JobControl) async throws
  {
    try await withLease(on: backup.image, control: control) { _ in
      if let user = manifests(backup.image).first(where: { $0.parent?.backup == backup.backup }) {
        throw DomainError(.backupHasDependents, "\(user.backup) builds on \(backup.backup)")
      }
      guard store.object(Self.key(backup)) != nil else { return }
      store.put(.bytes([]), at: "deleted/\(backup.backup)")
      store.remove(Self.key(backup))
      for file in StoredFile.allCases { store.remove(Self.key(file, backup.backup)) }
    }
  }

  func parentIsThere(_ manifest: Manifest) -> Bool {
    guard let parent = manifest.parent else { return true }
    return manifests(manifest.image).contains { $0.backup == parent.backup && $0.merkleRoot == parent.merkleRoot }
  }
}

private struct ObjectLease: RepositoryLease {
  let repository: ObjectRepository
  let image: ImageID
  let epoch: UInt64

  private var mine: [UInt8] { Array("\(epoch) \(repository.writer)".utf8) }

  func confirm() throws {
    guard repository.store.bytes("lease/\(image)") == mine else {
      throw DomainError(.repositoryLeased, "the lease on \(image) was lost")
    }
  }

  nonisolated(nonsending)
    func begin(_ backup: StoredBackupLocation, of image: ImageRecord, for job: JobID) async throws -> any BackupStage
  {
    let store = repository.store
    guard Manifest.sequences.contains(backup.sequence) else { throw DomainError(.invalidField, "the chain is full") }
    let taken = [ObjectRepository.key(backup), "deleted/\(backup.backup)"]
    let stage = "stage/\(repository.writer)/\(job)/\(backup.backup)"
    guard taken.allSatisfy({ store.object($0) == nil }), store.putIfAbsent(.bytes([]), at: stage) else {
      throw DomainError(.targetExists, "\(backup.backup) exists already")
    }
    return ObjectStage(lease: self, backup: backup, image: image, key: stage)
  }

  nonisolated(nonsending)
    func giveBack() async
  {
    _ = repository.store.replace("lease/\(image)") { found in
      guard case .bytes(mine) = found else { return nil }
      return .bytes(Array("\(epoch)".utf8))
    }
  }
}

private struct ObjectStage: BackupStage {
  let lease: ObjectLease
  let backup: StoredBackupLocation
  let image: ImageRecord
  let key: String

  private var store: ObjectStore { lease.repository.store }

  nonisolated(nonsending)
    func create(_ file: StoredFile) async throws -> any BlockDevice
  {
    UploadDevice { [store, key = ObjectRepository.key(file, backup.backup)] in store.put(.image($0), at: key) }
  }

  nonisolated(nonsending)
    func publish(_ manifest: Manifest) async throws -> UInt64
  {
    try lease.confirm()
    guard lease.repository.parentIsThere(manifest) else {
      throw DomainError(.backupCorrupt, "the parent of \(backup.backup) isn't what it was")
    }
    let bytes = try CheckedDocumentCodec.encode(manifest)
    guard store.putIfAbsent(.bytes(bytes), at: ObjectRepository.key(backup)) else {
      throw DomainError(.targetExists, "\(backup.backup) exists already")
    }
    store.put(.bytes(try CheckedDocumentCodec.encode(ImageDescription(image))), at: "image/\(image.id)")
    store.remove(key)
    return UInt64(bytes.count)
  }

  nonisolated(nonsending)
    func discard() async -> [String]
  {
    for key in [ObjectRepository.key(backup), key]
      + StoredFile.allCases.map({ ObjectRepository.key($0, backup.backup) })
    { store.remove(key) }
    return []
  }
}

/// A device in memory whose bytes become an object when it is closed.
private final class UploadDevice: BlockFilter, @unchecked Sendable {
  // Safe to hand over: confined to its loop.
  private let memory = MemoryDevice(byteCount: 0)
  private let upload: (SparseImage) -> Void
  var next: any BlockDevice { memory }

  init(_ upload: @escaping (SparseImage) -> Void) { self.upload = upload }

  nonisolated(nonsending)
    func change(
      _ kind: BlockChange, _ range: ByteRange,
      _ perform: nonisolated(nonsending) (ByteRange) async throws(BlockError) -> Void
    ) async throws(BlockError)
  { try await perform(range) }

  nonisolated(nonsending)
    func close() async throws(BlockError)
  { upload(memory.image) }
}
