import BlockCore
import Buffers
import EventLoops
import Failures
import Foundation
import Model
import Qcow2

/// Repositories of kind `directory`: folders of this machine, local or mounted.
package final class DirectoryRepositories: RepositoryKind {
  let writer: ULID
  let leases: LeaseTable
  let tombstones: TombstoneWatch
  let work: any BackgroundWork
  let pool: BufferPool
  private let openFolder: @Sendable (_ path: String, _ isMaking: Bool) throws -> any FolderFiles

  /// - Parameters:
  ///   - writer: this server.
  ///   - openFolder: opens the folder at a path that may hold repositories; makes it, with those above it up to the
  ///     allowed one, if `isMaking`. Blocks.
  package init(
    writer: ULID, lease timing: LeaseTiming, work: any BackgroundWork, pool: BufferPool,
    openFolder: @escaping @Sendable (_ path: String, _ isMaking: Bool) throws -> any FolderFiles
  ) {
    self.writer = writer
    leases = LeaseTable(writer: writer, timing: timing)
    tombstones = TombstoneWatch(grace: timing.grace)
    self.work = work
    self.pool = pool
    self.openFolder = openFolder
  }

  nonisolated(nonsending)
    package func open(_ location: RepositoryLocation, on loop: EventLoop) async throws -> any BackupRepository
  {
    try await loop.blocking(about: location.path) { [self] in
      let folder = try RepositoryFolder.open(location, in: try openFolder(location.path, false), writer: writer)
      return DirectoryRepository(folder: folder, kind: self, loop: loop)
    }
  }

  nonisolated(nonsending)
    package func establish(
      at path: String, id: RepositoryID, now: Date, on loop: EventLoop
    ) async throws -> EstablishedRepository
  {
    try await loop.blocking(about: path) { [self] in
      let files = try openFolder(path, true)
      let made = try RepositoryFolder.establish(in: files, at: path, id: id, writer: writer, now: now)
      try files.requireInPlace(at: path)
      return made
    }
  }
}

/// One of them that is open: what blocks runs off the loop, in the lane of the storage.
struct DirectoryRepository: BackupRepository {
  let folder: RepositoryFolder
  let kind: DirectoryRepositories
  let loop: EventLoop

  var location: RepositoryLocation { folder.location }
  var repair: String? { folder.repair }

  func name(of backup: StoredBackupLocation) -> String { backup.fullPath(.manifest) }

  func name(of file: StoredFile, _ backup: StoredBackupLocation) -> String {
    backup.fullPath(BackupFileName.Part(file))
  }

  nonisolated(nonsending)
    func access() async throws -> RepositoryAccess
  {
    try await loop.blocking(about: location.path) { [folder] in try folder.access() }
  }

  nonisolated(nonsending)
    func scan() async throws -> RepositoryScan
  {
    try await loop.blocking(about: location.path) { [folder] in try RepositoryReader.scan(folder) }
  }

  nonisolated(nonsending)
    func recover(isLive: @escaping @Sendable (JobID) -> Bool) async throws -> RecoveryReport
  {
    let recovery = RepositoryRecovery(
      repository: folder, leases: kind.leases, tombstones: kind.tombstones, isLive: isLive)
    return try await recovery.run(on: loop)
  }

  nonisolated(nonsending)
    func record(_ image: ImageRecord, job: JobID) async throws
  {
    try await loop.blocking(about: location.path) { [folder] in
      guard try folder.files.status(of: RepositoryPath.image(image.id)) != nil else { return }
      try folder.record(image, job: job)
    }
  }

  nonisolated(nonsending)
    func manifest(of backup: StoredBackupLocation) async throws -> Manifest
  {
    try await loop.blocking(about: backup.fullPath(.manifest)) { [folder] in try folder.manifest(backup) }
  }

  private var opener: RepositoryImageOpener {
    RepositoryImageOpener(repository: folder, work: kind.work, pool: kind.pool, loop: loop)
  }

  nonisolated(nonsending)
    func openHashes(of backup: StoredBackupLocation) async throws -> any BlockDevice
  {
    try await opener.openFile(backup.path(.hashes))
  }

  nonisolated(nonsending)
    func openData(of manifest: Manifest, at backup: StoredBackupLocation) async throws -> any BlockDevice
  {
    try await opener.openData(manifest, at: backup)
  }

  nonisolated(nonsending)
    func openTables(of backup: StoredBackupLocation) async throws -> Qcow2Image?
  {
    try await opener.openTables(at: backup)
  }

  nonisolated(nonsending)
    func parent(of backup: StoredBackup) async throws -> StoredBackup?
  {
    try await loop.blocking(about: name(of: backup.location)) { [folder, self] in
      try folder.parent(of: backup.manifest, at: backup.location).map {
        StoredBackup(manifest: try folder.manifest($0), location: $0, repository: self)
      }
    }
  }

  nonisolated(nonsending)
    func ancestry(of backup: StoredBackup) async throws -> [StoredBackup]
  {
    try await loop.blocking(about: name(of: backup.location)) { [folder, self] in
      try folder.ancestry(of: backup.manifest, at: backup.location).dropFirst().map {
        StoredBackup(manifest: $0.manifest, location: $0.place, repository: self)
      }
    }
  }

  nonisolated(nonsending)
    func newestChain(of image: ImageID, tracker: TrackerName) async throws -> StoredChain?
  {
    try await loop.blocking(about: location.path) { [folder] in
      try ChainHistory(repository: folder, image: image, tracker: tracker).newest()
    }
  }

  func backingName(_ parent: StoredBackupLocation) -> String { parent.name(.data) }

  nonisolated(nonsending)
    func takeLease(on image: ImageID, control: any JobControl) async throws -> any RepositoryLease
  {
    DirectoryLease(
      repository: self, held: try await kind.leases.take(image, of: folder, loop: loop, control: control))
  }

  nonisolated(nonsending)
    func delete(_ backup: StoredBackupLocation, control: any JobControl) async throws
  {
    guard
      try await loop.blocking(about: backup.folder, { [folder] in try folder.files.status(of: backup.folder) != nil })
    else { return control.log(.info, "\(name(of: backup)) was gone already") }
    let held = try await kind.leases.take(backup.image, of: folder, loop: loop, control: control)
    let deletion = BackupDeletion(repository: folder, tombstones: kind.tombstones)
    let result: Result<Void, any Error>
    do {
      result = .success(try await deletion.run(backup, lease: held.lease, on: loop, control: control))
    } catch {
      result = .failure(error)
    }
    await held.giveBack()
    try result.get()
  }
}

/// The lease on an image's folder.
struct DirectoryLease: RepositoryLease {
  let repository: DirectoryRepository
  let held: HeldLease

  var epoch: UInt64 { held.lease.epoch }

  nonisolated(nonsending)
    func begin(
      _ backup: StoredBackupLocation, of image: ImageRecord, for job: JobID
    ) async throws -> any BackupStage
  {
    let (folder, tombstones) = (repository.folder, repository.kind.tombstones)
    let stage = StageFolder(folder, backup, image: image, job: job)
    try await repository.loop.blocking(about: repository.location.path) {
      try tombstones.sweep(image.id, of: folder)
      try stage.checkVacant()
    }
    return DirectoryStage(files: stage, lease: held.lease, loop: repository.loop)
  }

  nonisolated(nonsending)
    func giveBack() async
  { await held.giveBack() }
}

/// A backup's files while they are being written.
struct DirectoryStage: BackupStage {
  let files: StageFolder
  let lease: Lease
  let loop: EventLoop

  var backup: StoredBackupLocation { files.place }

  nonisolated(nonsending)
    func create(_ file: StoredFile) async throws -> any BlockDevice
  {
    let part = BackupFileName.Part(file)
    let descriptor = try await loop.blocking(about: files.repository.location.path) { [files] in
      try files.makeFolders()
      return try files.createFile(part)
    }
    return try await telling(about: backup.fullPath(part)) {
      // Data are written in large pieces and once; hashes in single pages.
      try await files.repository.files.device(over: descriptor, isReadOnly: false, direct: part == .data, on: loop)
    }
  }

  nonisolated(nonsending)
    func publish(_ manifest: Manifest) async throws -> UInt64
  {
    try await loop.blocking(about: files.repository.location.path) { [files, lease] in
      try files.publish(manifest, lease: lease)
      // Complete from here on, whatever comes.
      return (try? files.repository.storedByteCount(files.place)) ?? 0
    }
  }

  nonisolated(nonsending)
    func discard() async -> [String]
  {
    await loop.blocking { [files] in files.discard() }
  }
}

extension BackupFileName.Part {
  init(_ file: StoredFile) {
    switch file {
    case .data: self = .data
    case .hashes: self = .hashes
    }
  }
}
