import Bitmaps
import BlockCore
import Bytes
import Descriptors
import EventLoops
import Glibc
import RawFile

/// The files of one image's record of changes: its log, its sidecars, and its map in memory.
struct RecordFiles: Sendable {
  let id: UInt128
  let configuration: TrackingConfiguration
  let memory: TrackingMemory
  let loop: EventLoop

  private var name: String {
    var bytes: [UInt8] = []
    bytes.append(bigEndian: id)
    return Hexadecimal.text(of: bytes)
  }
  private var lane: BlockingLane { .folder(configuration.stateFolder) }
  private var logPath: String { "\(configuration.stateFolder)/\(name).log" }
  private func sidecarPath(_ sequence: UInt64) -> String { "\(configuration.stateFolder)/\(name).\(sequence)" }
  /// In memory, or else beside the log: there it outlives the process as well.
  private var mapPaths: [String] {
    [configuration.mapFolder, configuration.stateFolder].map { "\($0)/cobweb-\(name)" }
  }

  // MARK: Made anew

  /// The storage of a new log.
  nonisolated(nonsending)
    func createLog() async throws -> RawFile
  {
    let (folder, path) = (configuration.stateFolder, logPath)
    try await loop.blocking(in: lane) { () throws(SystemError) in
      guard mkdir(folder, 0o700) == 0 || errno == EEXIST else { throw SystemError(errno, folder) }
      let file = try FileDescriptor.open(
        path: path, Folder.FileOptions(access: .readWrite, createMode: 0o600, followsLinks: false))
      let zeroes = [UInt8](repeating: 0, count: Int(WriteIntentLog.byteCount))
      guard file.writeHere(zeroes.span.bytes, at: 0), Glibc.fsync(file.rawValue) == 0 else { throw SystemError(errno) }
      _ = try Folder(path: folder).synchronize()
    }
    return try await openLog()
  }

  nonisolated(nonsending)
    private func openLog() async throws(BlockError) -> RawFile
  {
    try await RawFile.open(.path(logPath), RawFile.Options(isReadOnly: false, direct: true), on: loop)
  }

  nonisolated(nonsending)
    func createMap(_ layout: RecordingMap.Layout) async throws(SystemError) -> MappedFile
  {
    try await loop.blocking(in: .folder(configuration.mapFolder)) { [self] () throws(SystemError) in
      func make(_ path: String) throws(SystemError) -> MappedFile {
        try MappedFile(creating: path, byteCount: layout.byteCount, reserved: layout.leadingByteCount, from: memory)
      }
      do throws(SystemError) { return try make(mapPaths[0]) } catch { return try make(mapPaths[1]) }
    }
  }

  /// Durable when it returns.
  nonisolated(nonsending)
    func write(_ sidecar: Sidecar) async throws
  {
    let (folder, path, log) = (configuration.stateFolder, sidecarPath(sidecar.head.sequence), logPath)
    let written = await loop.blocking(in: lane) { () -> Result<Void, any Error> in
      Result { try sidecar.write(to: path, in: folder, beside: log) }
    }
    try written.get()
  }

  nonisolated(nonsending)
    func removeSidecar(_ sequence: UInt64) async
  {
    let path = sidecarPath(sequence)
    await loop.blocking(in: lane) { _ = unlink(path) }
  }

  /// Removes all of them: the sidecars' sequences are those that the log named.
  nonisolated(nonsending)
    func removeAll(_ sequences: Set<UInt64>) async
  {
    let paths = [logPath] + mapPaths + sequences.map(sidecarPath)
    await loop.blocking(in: lane) { for path in paths { _ = unlink(path) } }
  }

  // MARK: Left by another

  /// What a killed process left.
  struct Left: Sendable {
    /// Locked from here on: no request of the killed process is under way any more.
    let storage: RawFile
    let log: WriteIntentLog.Contents
    let sidecar: Sidecar
    /// Nil if it isn't there any more.
    let map: MappedFile?
  }

  /// How often the lock of a log is tried, and the time between two tries.
  private static let lockTries = 50
  private static let lockPause = Duration.milliseconds(100)

  /// Whether there is a log at all.
  nonisolated(nonsending)
    func areThere() async -> Bool
  {
    let path = logPath
    return await loop.blocking(in: lane) { access(path, F_OK) == 0 }
  }

  /// - Parameter sequence: of the sidecar.
  /// - Returns: nil if they aren't there, or aren't whole, or are copies.
  nonisolated(nonsending)
    func open(_ sequence: UInt64) async throws -> Left?
  {
    guard let storage = try await openLeftLog() else { return nil }
    do {
      guard let log = try await WriteIntentLog.contents(of: storage), let sidecar = await sidecar(sequence) else {
        try await storage.close()
        return nil
      }
      let paths = mapPaths
      let map = await loop.blocking(in: .folder(configuration.mapFolder)) {
        paths.lazy.compactMap { try? MappedFile(reading: $0) }.first
      }
      return Left(storage: storage, log: log, sidecar: sidecar, map: map)
    } catch {
      try? await storage.close()
      throw error
    }
  }

  nonisolated(nonsending)
    private func openLeftLog() async throws -> RawFile?
  {
    for _ in 1..<Self.lockTries {
      if let log = try await tryLeftLog() { return log }
      guard await areThere() else { return nil }
      try await loop.sleep(for: Self.lockPause)
    }
    return try await openLog()
  }

  /// Nil if it is locked, or isn't there.
  nonisolated(nonsending)
    private func tryLeftLog() async throws -> RawFile?
  {
    do throws(BlockError) {
      return try await openLog()
    } catch {
      switch error.kind {
      case .locked: return nil
      case .io(let errno) where errno == ENOENT: return nil
      default: throw error
      }
    }
  }

  nonisolated(nonsending)
    private func sidecar(_ sequence: UInt64) async -> Sidecar?
  {
    let (path, log) = (sidecarPath(sequence), logPath)
    return await loop.blocking(in: lane) { () -> Sidecar? in
      guard let file = try? FileDescriptor.open(path: path, Folder.FileOptions(followsLinks: false)),
        let status = try? file.status(), let logStatus = try? FileDescriptor.reference(to: log).status(),
        status.byteCount <= UInt64(Self.maximumSidecarByteCount), let bytes = file.readHere(Int(status.byteCount)),
        let sidecar = Sidecar(decoding: bytes), sidecar.head.sidecar == Sidecar.FileNumber(status),
        sidecar.head.log == Sidecar.FileNumber(logStatus)
      else { return nil }
      return sidecar
    }
  }

  /// More than a sidecar of the finest bitmap that is recorded: what is longer isn't read.
  private static let maximumSidecarByteCount = 640 << 20
}

extension Sidecar {
  /// Blocks.
  fileprivate func write(to path: String, in folder: String, beside log: String) throws {
    // One that was left by a try before isn't named by anything yet.
    _ = unlink(path)
    let file = try FileDescriptor.open(
      path: path, Folder.FileOptions(access: .readWrite, createMode: 0o600, followsLinks: false))
    var sidecar = self
    sidecar.head.sidecar = FileNumber(try file.status())
    sidecar.head.log = FileNumber(try FileDescriptor.reference(to: log).status())
    let bytes = try sidecar.encoded()
    guard file.writeHere(bytes.span.bytes, at: 0), Glibc.fsync(file.rawValue) == 0 else {
      let failure = SystemError(errno, path)
      _ = unlink(path)
      throw failure
    }
    _ = try Folder(path: folder).synchronize()
  }
}

extension Sidecar.FileNumber {
  init(_ status: FileStatus) { self.init(device: status.device, inode: status.inode) }
}

extension FileDescriptor {
  /// The first bytes of the file; nil if there are fewer. Blocks.
  func readHere(_ count: Int) -> [UInt8]? {
    var bytes = [UInt8](repeating: 0, count: count)
    var done = 0
    while done < count {
      let got = bytes.withUnsafeMutableBytes { pread(rawValue, $0.baseAddress! + done, count - done, off_t(done)) }
      guard got > 0 else { return nil }
      done += got
    }
    return bytes
  }
}
