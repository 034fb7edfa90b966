import BlockCore
import EventLoops
import Model
import Repositories

/// What the engine may touch, and how it works.
package struct EngineConfiguration: Sendable {
  /// Images, their backing files, and new files that backups are restored to lie beneath these. Absolute, existing.
  package var imageFolders: [String]
  /// Block devices that may be images: patterns as in the shell.
  package var imageDevices: [String]
  /// Repositories lie beneath these, or are these. Absolute, existing.
  package var repositoryFolders: [String]
  /// This server's id, the same after each start: its work files and leases carry it.
  package var writer: ULID
  /// Of zstd, 1–19.
  package var compressionLevel: Int
  /// Share of what a bitmap calls unchanged that is compared with the hashes all the same, see ``SampledCheck``.
  package var sampledCheck: Double
  package var lease: LeaseTiming
  /// What is served to NBD clients, and how.
  package var exports: ExportConfiguration
  /// NBD servers that images may be on, or that may be restored to.
  package var peers: PeerConfiguration
  /// Where the changes of open images are recorded for after a crash; nil: nowhere.
  package var tracking: TrackingConfiguration?
  /// Where the bytes are kept that guests change while their images are backed up.
  package var fleecing: FleecingConfiguration
  /// How the files beneath a repository's folder, or a folder that is restored to, are reached.
  package var openFiles: @Sendable (Folder) -> any FolderFiles

  package static let defaultCompressionLevel = 3

  package init(
    imageFolders: [String], imageDevices: [String] = [], repositoryFolders: [String], writer: ULID,
    compressionLevel: Int = EngineConfiguration.defaultCompressionLevel, sampledCheck: Double = 0.001,
    lease: LeaseTiming = LeaseTiming(),
    exports: ExportConfiguration = ExportConfiguration(), peers: PeerConfiguration = PeerConfiguration(),
    tracking: TrackingConfiguration? = nil, fleecing: FleecingConfiguration = FleecingConfiguration(),
    openFiles: @escaping @Sendable (Folder) -> any FolderFiles = { LocalFolderFiles($0) }
  ) {
    self.imageFolders = imageFolders
    self.imageDevices = imageDevices
    self.repositoryFolders = repositoryFolders
    self.writer = writer
    self.compressionLevel = compressionLevel
    self.sampledCheck = sampledCheck
    self.lease = lease
    self.exports = exports
    self.peers = peers
    self.tracking = tracking
    self.fleecing = fleecing
    self.openFiles = openFiles
  }
}

/// The event loops' worker pool as the block modules ask for it.
struct PooledWork: BackgroundWork {
  let workers: WorkerPool

  nonisolated(nonsending)
    func run<Result: Sendable>(_ work: @Sendable @escaping () -> Result) async -> Result
  {
    await workers.run(work)
  }
}
