import Engine
import EventLoops
import Foundation
import Logging
import Model
import ModelTesting
import Repositories

/// What engines say to an operator isn't for the reader of tests.
let quietLogger = Logger(label: "engine") { _ in SwiftLogNoOpLogHandler() }

/// An engine over a temporary folder with `images/` and `backup/`, both allowed, and one repository.
final class TestEngine: Sendable {
  /// Loops that all tests of one backend share.
  private static let groups: [IOBackend: EventLoopGroup] = {
    var groups: [IOBackend: EventLoopGroup] = [:]
    for backend in IOBackend.allCases {
      groups[backend] = try? EventLoopGroup(count: 2, backend: .forced(backend), workerCount: 2)
    }
    return groups
  }()

  /// The backends that this machine permits.
  static let backends: [IOBackend] = IOBackend.allCases.filter { groups[$0] != nil }

  let root: String
  let engine: LocalEngine
  let group: EventLoopGroup
  let repository: RepositoryLocation
  let writer: ULID

  var images: String { root + "/images" }
  var sockets: String { root + "/run" }
  var repositoryPath: String { repository.path }

  /// - Parameter root: a folder to share with an earlier one; else a new one, removed at the end of ``with(_:)``.
  init(
    root: String? = nil, backend: IOBackend? = nil, writer: ULID = ULID(), lease: LeaseTiming = LeaseTiming(),
    repository: RepositoryLocation? = nil, exports: ExportConfiguration? = nil,
    peers: PeerConfiguration = PeerConfiguration(), devices: [String] = [], sampledCheck: Double = 0.1,
    trackingMemory: Int = TrackingConfiguration.defaultMemoryByteCount,
    fleecing: FleecingConfiguration? = nil,
    openFiles: @escaping @Sendable (Folder) -> any FolderFiles = { LocalFolderFiles($0) },
    openSidecars: @escaping @Sendable (Folder) -> any FolderFiles = { LocalFolderFiles($0) }
  ) async throws {
    guard let group = Self.groups[backend ?? Self.backends[0]] else { throw Tool.Failure(description: "no loops") }
    self.group = group
    self.writer = writer
    self.root = root ?? NSTemporaryDirectory() + "cobweb-engine-\(ULID())"
    for name in ["images", "backup"] {
      try FileManager.default.createDirectory(atPath: self.root + "/\(name)", withIntermediateDirectories: true)
    }
    engine = try LocalEngine(
      EngineConfiguration(
        imageFolders: [self.root + "/images"], imageDevices: devices,
        repositoryFolders: [self.root + "/backup"], writer: writer, sampledCheck: sampledCheck, lease: lease,
        exports: exports ?? ExportConfiguration(socketFolder: self.root + "/run"), peers: peers,
        tracking: TrackingConfiguration(
          stateFolder: self.root + "/tracking", mapFolder: self.root, memoryByteCount: trackingMemory,
          timeResolution: .milliseconds(20), openFiles: openSidecars),
        fleecing: fleecing ?? FleecingConfiguration(folder: self.root + "/fleecing"), openFiles: openFiles),
      group: group, logger: quietLogger)
    if let repository {
      self.repository = repository
    } else {
      let path = self.root + "/backup/local"
      let id = RepositoryID()
      // Made without faults, whatever the test is about.
      let plain = try LocalEngine(
        EngineConfiguration(
          imageFolders: [], repositoryFolders: [self.root + "/backup"], writer: writer),
        group: group, logger: quietLogger)
      self.repository = RepositoryLocation(id: try await plain.openRepository(at: path, id: id), path: path)
    }
  }

  func removeFolder() { try? FileManager.default.removeItem(atPath: root) }

  /// A backup that was made, and where it lies.
  struct Made {
    let place: StoredBackupLocation
    let receipt: BackupReceipt
    let order: BackupOrder

    var dataPath: String { place.fullPath(.data) }
  }

  func record(_ name: ResourceName, _ path: String, _ format: DiskFormat, id: ImageID = ImageID()) -> ImageRecord {
    ImageRecord(id: id, name: name, source: .file(path: path), format: format, labels: ["tier": "gold"])
  }

  func order(_ image: ImageRecord, _ compression: Compression = .zstd, kind: RequestedBackupKind = .full) -> BackupOrder
  {
    BackupOrder(
      backup: BackupID(), newChain: ChainID(), group: ULID(), kind: kind, image: image, repository: repository,
      compression: compression)
  }

  func backUp(
    _ image: ImageRecord, _ compression: Compression = .zstd, control: RecordingJobControl = RecordingJobControl()
  ) async throws -> Made {
    try await backUp(order(image, compression), control: control)
  }

  func backUp(_ order: BackupOrder, control: RecordingJobControl = RecordingJobControl()) async throws -> Made {
    let receipt = try await engine.backUp(order, control: control)
    return Made(place: place(order), receipt: receipt, order: order)
  }

  func place(_ order: BackupOrder) -> StoredBackupLocation {
    StoredBackupLocation(
      repository: repository, image: order.image.id, chain: order.newChain, sequence: 0, backup: order.backup)
  }

  func verify(_ place: StoredBackupLocation, _ level: VerifyLevel = .checksum) async throws -> VerifyReport {
    try await engine.verify(VerifyOrder(backup: place, level: level), control: RecordingJobControl())
  }

  @discardableResult
  func restore(
    _ place: StoredBackupLocation, to path: String, _ format: DiskFormat,
    control: RecordingJobControl = RecordingJobControl()
  ) async throws -> RestoreReport {
    try await engine.restore(
      RestoreOrder(backup: place, target: .newFile(path: path, format: format)), control: control)
  }

  /// All files beneath `folder`, relative to it, in order.
  static func files(beneath folder: String) -> [String] {
    let all = FileManager.default.enumerator(atPath: folder)?.compactMap { $0 as? String } ?? []
    return all.filter {
      var isFolder: ObjCBool = false
      return FileManager.default.fileExists(atPath: folder + "/" + $0, isDirectory: &isFolder) && !isFolder.boolValue
    }.sorted()
  }

  /// The files of the repository's images.
  var storedFiles: [String] { Self.files(beneath: repositoryPath + "/images") }
}

/// Runs `body` with a new test engine, shuts it down, and removes its folder.
func withEngine(
  root: String? = nil, backend: IOBackend? = nil, lease: LeaseTiming = LeaseTiming(),
  exports: ExportConfiguration? = nil, peers: [String] = [], devices: [String] = [], sampledCheck: Double = 0.1,
  trackingMemory: Int = TrackingConfiguration.defaultMemoryByteCount,
  fleecing: FleecingConfiguration? = nil,
  openFiles: @escaping @Sendable (Folder) -> any FolderFiles = { LocalFolderFiles($0) },
  _ body: (TestEngine) async throws -> Void
) async throws {
  let test = try await TestEngine(
    root: root, backend: backend, lease: lease, exports: exports, peers: PeerConfiguration(allowed: peers),
    devices: devices, sampledCheck: sampledCheck, trackingMemory: trackingMemory, fleecing: fleecing,
    openFiles: openFiles)
  defer { test.removeFolder() }
  do {
    try await body(test)
  } catch {
    await test.engine.shutDown()
    throw error
  }
  await test.engine.shutDown()
}

/// The code of the `DomainError` that `body` throws; nil if it throws nothing.
func code(_ body: () async throws -> Void) async -> ProblemCode? {
  do {
    try await body()
    return nil
  } catch let error as DomainError {
    return error.code
  } catch {
    return .internalError
  }
}
