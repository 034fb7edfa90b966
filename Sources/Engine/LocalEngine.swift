import BlockCore
import Buffers
import EventLoops
import Failures
import Locks
import Logging
import Model
import NBD
import Repositories

/// The block engine in this process: images and repositories on this machine's storage.
///
/// Each piece of work runs on one event loop from its beginning to its end, with every device that it opens; what
/// blocks runs on the group's threads. Between pieces of work only attached images stay open, and what is exported:
/// folders are opened anew for each piece, so that it finds what is mounted there by then.
package final class LocalEngine: BlockEngine {
  let configuration: EngineConfiguration
  let clock: any WallClock
  let group: EventLoopGroup
  let pool: BufferPool
  let work: any BackgroundWork
  let compressors: CompressorShelf
  let leases: LeaseTable
  let tombstones: TombstoneWatch
  let imageFolders: AllowedFolders
  let imageDevices: AllowedDevices
  private let repositoryFolders: AllowedFolders
  let peers: NBDPeers
  let claims = FileClaims()
  let attachedImages = AttachedImages()
  let servedExports = ServedExports()
  let listeners: ExportListeners
  let calls = CallsInFlight()
  /// By repository; at most one each.
  private let untoldRepairs = Lock<[RepositoryID: String]>([:])
  let logger: Logger
  private let failureHandler = Lock<(@Sendable (ImageFailure) -> Void)?>(nil)

  /// Refuses allowed folders that aren't there; blocks.
  /// - Parameter group: stays its owner's, who shuts it down after ``shutDown()``.
  /// - Throws: `DomainError` for a folder that can't be opened, a file for TLS that can't be loaded, a group or a
  ///   compression level that doesn't exist.
  package init(
    _ configuration: EngineConfiguration, group: EventLoopGroup, pool: BufferPool = BufferPool(),
    clock: any WallClock = SystemWallClock(), logger: Logger = Logger(label: "engine")
  ) throws {
    self.configuration = configuration
    self.logger = logger
    self.clock = clock
    self.group = group
    self.pool = pool
    work = PooledWork(workers: group.workers)
    do {
      compressors = try CompressorShelf(level: configuration.compressionLevel)
    } catch {
      throw DomainError(.invalidField, "the compression level \(configuration.compressionLevel): \(error)")
    }
    leases = LeaseTable(writer: configuration.writer, timing: configuration.lease)
    tombstones = TombstoneWatch(grace: configuration.lease.grace)
    do {
      imageFolders = try AllowedFolders(configuration.imageFolders, purpose: "image folders")
      repositoryFolders = try AllowedFolders(configuration.repositoryFolders, purpose: "repository folders")
    } catch {
      throw DomainError(any: error, of: error.detail ?? "an allowed folder")
    }
    imageDevices = AllowedDevices(configuration.imageDevices)
    peers = try NBDPeers(configuration.peers)
    var options = NBDServerOptions()
    options.maximumConnectionCount = configuration.exports.connectionCount
    listeners = ExportListeners(
      loops: group, options: options, sockets: try ExportSockets(configuration.exports),
      credentials: try ExportCredentials(configuration.exports),
      apiAddresses: APIAddresses(addresses: configuration.exports.apiAddresses), logger: logger)
  }

  package var ioBackend: String { group.backend.rawValue }

  package func shutDown() async { await shutDown(until: nil) }

  /// Waits for the calls under way, then ends the exports, flushes and closes the images.
  /// - Parameter deadline: how long the calls are waited for; images are closed all the same, each by itself, so that
  ///   none is left open because of another's disk. Nil: as long as they take.
  package func shutDown(until deadline: ContinuousClock.Instant?) async {
    if let deadline {
      _ = await finishes(by: deadline) { [calls] in await calls.waitForNone() }
    } else {
      await calls.waitForNone()
    }
    await withDiscardingTaskGroup { group in
      for export in servedExports.ids {
        group.addTask { [self] in
          do { try await withdraw(export, .hard) } catch { logger.error("ending the export \(export): \(error)") }
        }
      }
    }
    await withDiscardingTaskGroup { group in
      for image in attachedImages.open {
        group.addTask { [self] in
          do { try await detach(image) } catch { logger.error("closing the image \(image): \(error)") }
        }
      }
    }
    await listeners.shutDown()
  }

  /// The calls under way, in words: what ``shutDown(until:)`` waits for.
  package var unfinished: [String] {
    let count = calls.count
    return count == 0 ? [] : [count == 1 ? "1 call of the block engine" : "\(count) calls of the block engine"]
  }

  /// Runs one piece of work on one loop.
  /// - Parameters:
  ///   - loop: where the devices are that it uses; nil: any.
  ///   - job: whose work files aren't leftovers meanwhile.
  ///   - lane: what the work may hang with: the storage of the image or repository that it is about.
  func onLoop<Result: Sendable>(
    _ loop: EventLoop? = nil, for job: JobID? = nil, in lane: BlockingLane = .shared,
    _ body: @Sendable @escaping (EventLoop) async throws -> Result
  ) async throws -> Result {
    calls.begin(job)
    defer { calls.end(job) }
    let loop = loop ?? group.next()
    do {
      return try await BlockingLane.$current.withValue(lane) { try await loop.run { try await body(loop) } }
    } catch let error as SystemError {
      throw DomainError(error, of: "the engine")
    }
  }

  package func onImageFailure(_ handler: @escaping @Sendable (ImageFailure) -> Void) {
    failureHandler.withLock { $0 = handler }
  }

  /// - Parameter image: the one that is being attached, whose failures are told; see ``onImageFailure(_:)``.
  func opener(on loop: EventLoop, attaching image: ImageID? = nil) -> ImageOpener {
    let latches = LatchLog(of: image, logger) { [failureHandler] failure in
      failureHandler.withLock { $0 }?(failure)
    }
    return ImageOpener(
      folders: imageFolders, devices: imageDevices, peers: peers, claims: claims, work: work, pool: pool,
      loop: loop, latches: latches)
  }

  func opener(of repository: DirectoryRepository, on loop: EventLoop) -> RepositoryImageOpener {
    RepositoryImageOpener(repository: repository, work: work, pool: pool, loop: loop)
  }

  // MARK: Repositories

  /// The folder of a repository; made, with those above it up to the allowed one, if `isMaking`. Blocks.
  private func files(ofRepositoryAt path: String, isMaking: Bool) throws -> any FolderFiles {
    do {
      let place = try isMaking ? repositoryFolders.resolveToMake(path) : repositoryFolders.resolve(path)
      let outer = configuration.openFiles(place.folder)
      if isMaking { try DirectoryRepository.refuseWithin(outer, place.relative, path) }
      var made = place.missing.reduce(place.relative) { path, _ in RepositoryPath.folder(of: path) }
      for name in place.missing {
        let above = made
        made = above == "." ? name : "\(above)/\(name)"
        if try outer.ensureFolder(made) { try outer.synchronizeFolder(above) }
      }
      let folder = try place.folder.openFolder(place.relative, followsLinks: false)
      return configuration.openFiles(folder)
    } catch {
      let failure = DomainError(any: error, of: path)
      guard failure.code == .sourceNotFound || failure.code == .sourceNotAFile else { throw failure }
      throw DomainError(
        .repositoryUnavailable, "the repository's folder \(path) can't be opened: \(failure.detail)",
        remedy: "mount the repository's storage, or check the path")
    }
  }

  nonisolated(nonsending)
    func open(_ location: RepositoryLocation, on loop: EventLoop) async throws -> DirectoryRepository
  {
    try await loop.blocking(about: location.path) { [self] in
      let repository = try DirectoryRepository.open(
        location, in: try files(ofRepositoryAt: location.path, isMaking: false), writer: configuration.writer)
      note(repository.repair, of: location)
      return repository
    }
  }

  package func openRepository(at path: String, id: RepositoryID) async throws -> RepositoryID {
    try await onLoop(in: .folder(path)) { [self] loop in
      try await loop.blocking(about: path) { [self] in
        let files = try files(ofRepositoryAt: path, isMaking: true)
        let made = try DirectoryRepository.establish(
          in: files, at: path, id: id, writer: configuration.writer, now: clock.now())
        try files.requireInPlace(at: path)
        note(made.repair, of: RepositoryLocation(id: made.id, path: path))
        return made.id
      }
    }
  }

  /// As ``open(_:on:)``, for work that writes. Throws `repositoryReadOnly` before anything is done.
  nonisolated(nonsending)
    func openToWrite(_ location: RepositoryLocation, on loop: EventLoop) async throws -> DirectoryRepository
  {
    let repository = try await open(location, on: loop)
    let access = try await loop.blocking(about: location.path) { try repository.access() }
    guard access == .readWrite else {
      throw DomainError(
        .repositoryReadOnly, "the storage of the repository \(location.path) takes no writes",
        remedy: "mount it to be written, and give the server's user access to it")
    }
    return repository
  }

  package func access(to location: RepositoryLocation) async throws -> RepositoryAccess {
    try await onLoop(in: .folder(location.path)) { [self] loop in
      let repository = try await open(location, on: loop)
      return try await loop.blocking(about: location.path) { try repository.access() }
    }
  }

  package func scan(_ location: RepositoryLocation) async throws -> RepositoryScan {
    try await onLoop(in: .folder(location.path)) { [self] loop in
      let repository = try await open(location, on: loop)
      var scan = try await loop.blocking(about: location.path) { try RepositoryReader.scan(repository) }
      if let repair = untoldRepairs.withLock({ $0.removeValue(forKey: location.id) }) {
        scan.findings.insert(repair, at: 0)
      }
      return scan
    }
  }

  /// Whatever opens a repository puts it right: the log tells at once, and the next scan as a finding.
  private func note(_ repair: String?, of location: RepositoryLocation) {
    guard let repair, untoldRepairs.withLock({ $0.updateValue(repair, forKey: location.id) }) != repair else { return }
    logger.warning("a repository was put right", metadata: ["path": "\(location.path)", "what": "\(repair)"])
  }

  package func recover(_ location: RepositoryLocation, liveJobs: Set<JobID>) async throws -> RecoveryReport {
    try await onLoop(in: .folder(location.path)) { [self] loop in
      let repository = try await open(location, on: loop)
      let access = try await loop.blocking(about: location.path) { try repository.access() }
      guard access == .readWrite else { return RecoveryReport(removed: [], quarantined: [], access: access) }
      let recovery = RepositoryRecovery(
        repository: repository, leases: leases, tombstones: tombstones
      ) { [calls] in liveJobs.contains($0) || calls.isLive($0) }
      let report = try await recovery.run(on: loop)
      for path in report.removed { logger.debug("removed a leftover", metadata: ["path": "\(path)"]) }
      for path in report.quarantined { logger.debug("set aside", metadata: ["path": "\(path)"]) }
      return report
    }
  }

  package func record(_ image: ImageRecord, in location: RepositoryLocation) async throws {
    let job = JobID()
    try await onLoop(for: job, in: .folder(location.path)) { [self] loop in
      let repository = try await openToWrite(location, on: loop)
      try await loop.blocking(about: location.path) {
        guard try repository.files.status(of: RepositoryPath.image(image.id)) != nil else { return }
        try repository.record(image, job: job)
      }
    }
  }

  package func delete(_ backup: StoredBackupLocation, control: any JobControl) async throws {
    try await onLoop(in: .folder(backup.repository.path)) { [self] loop in
      let repository = try await openToWrite(backup.repository, on: loop)
      guard try await loop.blocking(about: backup.folder, { try repository.files.status(of: backup.folder) != nil })
      else { return control.log(.info, "\(backup.fullPath(.manifest)) was gone already") }
      try await leases.withLease(on: backup.image, of: repository, loop: loop, control: control) { lease in
        let deletion = BackupDeletion(repository: repository, tombstones: tombstones)
        try await deletion.run(backup, lease: lease, on: loop, control: control)
      }
    }
  }
}
