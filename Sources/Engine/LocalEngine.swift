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
  let clock: any TimeSource
  let group: EventLoopGroup
  let pool: BufferPool
  let work: any BackgroundWork
  let compressors: CompressorShelf
  let repositories: any RepositoryKind
  let imageFolders: AllowedFolders
  let imageDevices: AllowedDevices
  let peers: NBDPeers
  let claims = FileClaims()
  let records: CrashRecords?
  let fleecing: FleecingPlace
  let sidecars: SidecarFolder?
  /// Why bitmaps of an image couldn't be recovered, by its file: its next backup says so.
  let refusedRecoveries = Lock<[FileIdentity: RefusedRecovery]>([:])
  let attachedImages = AttachedImages()
  let servedExports = ServedExports()
  let openFleecings = OpenFleecings()
  let listeners: ExportListeners
  let calls = CallsInFlight()
  let begunBackups = BegunBackups()
  /// By repository; at most one each.
  let untoldRepairs = Lock<[RepositoryID: String]>([:])
  let logger: Logger
  private let failureHandler = Lock<(@Sendable (ImageFailure) -> Void)?>(nil)
  private let damageHandler = Lock<(@Sendable (BackupDamage) -> Void)?>(nil)
  private let lossHandler = Lock<(@Sendable (FleecingLoss) -> Void)?>(nil)

  /// Refuses allowed folders that aren't there; blocks.
  /// - Parameters:
  ///   - group: stays its owner's, which shuts it down after ``shutDown()``.
  ///   - repositories: the kind of all repositories; nil: `directory`.
  /// - Throws: `DomainError` for a folder that can't be opened, a file for TLS that can't be loaded, a group or a
  ///   compression level that doesn't exist.
  package init(
    _ configuration: EngineConfiguration, group: EventLoopGroup, pool: BufferPool = BufferPool(),
    repositories: (any RepositoryKind)? = nil,
    clock: any TimeSource = SystemTime(), logger: Logger = Logger(label: "engine")
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
    let repositoryFolders: RepositoryFolders
    do {
      imageFolders = try AllowedFolders(configuration.imageFolders, purpose: "image folders")
      repositoryFolders = try RepositoryFolders(configuration)
    } catch {
      throw DomainError(any: error, of: error.detail ?? "an allowed folder")
    }
    self.repositories =
      repositories
      ?? DirectoryRepositories(
        writer: configuration.writer, lease: configuration.lease, work: work, pool: pool
      ) { try repositoryFolders.open($0, isMaking: $1) }
    imageDevices = AllowedDevices(configuration.imageDevices)
    peers = try NBDPeers(configuration.peers)
    records = configuration.tracking.map { CrashRecords($0) }
    fleecing = FleecingPlace(configuration.fleecing)
    sidecars = configuration.tracking.map { SidecarFolder($0) }
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
    await waitForCalls(until: deadline)
    await abandon(begunBackups.ids)
    await withDiscardingTaskGroup { group in
      for fleecing in fleecings { group.addTask { [self] in await end(fleecing) } }
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
          do { try await close(image, evictsUsers: true) } catch {
            logger.error("closing the image \(image): \(error)")
          }
        }
      }
    }
    await listeners.shutDown()
    // What the last reads of exports met is told.
    await waitForCalls(until: deadline)
  }

  private func waitForCalls(until deadline: ContinuousClock.Instant?) async {
    guard let deadline else { return await calls.waitForNone() }
    _ = await finishes(by: deadline) { [calls] in await calls.waitForNone() }
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

  package func onBackupDamage(_ handler: @escaping @Sendable (BackupDamage) -> Void) {
    damageHandler.withLock { $0 = handler }
  }

  package func onFleecingLoss(_ handler: @escaping @Sendable (FleecingLoss) -> Void) {
    lossHandler.withLock { $0 = handler }
  }

  func deliver(_ loss: FleecingLoss) { lossHandler.withLock { $0 }?(loss) }

  func deliver(_ damage: BackupDamage) { damageHandler.withLock { $0 }?(damage) }

  /// - Parameter image: the one that is being attached, whose failures are told; see ``onImageFailure(_:)``.
  func opener(on loop: EventLoop, attaching image: ImageID? = nil) -> ImageOpener {
    let latches = LatchLog(of: image, logger) { [failureHandler] failure in
      failureHandler.withLock { $0 }?(failure)
    }
    return ImageOpener(
      folders: imageFolders, devices: imageDevices, peers: peers, claims: claims, attached: attachedImages,
      work: work, pool: pool, loop: loop, logger: logger, records: records, sidecars: sidecars,
      latches: latches)
  }
}
