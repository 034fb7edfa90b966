import BlockCore
import Descriptors
import EventLoops
import Glibc

extension RawFile {
  /// Where an image file is.
  package enum Location: Sendable {
    /// Beneath a folder, without a way out of it.
    case beneath(Folder, String)
    /// A path that is trusted.
    case path(String)
  }

  package struct Options: Hashable, Sendable {
    package var isReadOnly: Bool
    /// Goes past the page cache where the file system can and the size is whole blocks; see ``RawFile/isDirect``.
    package var direct: Bool
    /// Goes past the page cache although the file ends amid a block: that block can be read, but it is changed only
    /// after a resize to whole blocks. For formats that state their own length.
    package var allowsPartialLastBlock = false
    /// The claim that is made on the file as QEMU makes it; nil for files that only we know.
    package var lock: ImageLock?
    package var allowsBlockDevice: Bool

    /// - Parameter locks: whether to claim the image, as `reader` or `writer` as `isReadOnly` has it.
    package init(isReadOnly: Bool, direct: Bool = false, locks: Bool = true, allowsBlockDevice: Bool = false) {
      self.isReadOnly = isReadOnly
      self.direct = direct
      lock = locks ? (isReadOnly ? .reader : .writer) : nil
      self.allowsBlockDevice = allowsBlockDevice
    }
  }

  /// Opens an existing file or block device.
  /// - Throws: `locked` if another process's claim stands against ours; `io` with what the kernel says of the path.
  package static func open(
    _ location: Location, _ options: Options, on loop: EventLoop
  ) async throws(BlockError) -> RawFile {
    try await open(options, on: loop) { () throws(BlockError) in try OpenedFile(location, options) }
  }

  /// Takes over a file that is open already, with the access that `options` say.
  package static func open(
    _ file: FileDescriptor, _ options: Options, on loop: EventLoop
  ) async throws(BlockError) -> RawFile {
    try await open(options, on: loop) { () throws(BlockError) in try OpenedFile(file, options) }
  }

  /// Creates a file of `byteCount` zeroes, all hole. Nothing may be there under that name. If it fails, a file that
  /// was created is left to the caller, which knows whether the name may be removed.
  /// - Parameter mode: its permission bits, before the umask.
  package static func create(
    _ location: Location, byteCount: UInt64, mode: UInt32 = 0o600, _ options: Options, on loop: EventLoop
  ) async throws(BlockError) -> RawFile {
    try await open(options, on: loop) { () throws(BlockError) in
      try OpenedFile(location, options, creating: (byteCount, mode))
    }
  }

  private static func open(
    _ options: Options, on loop: EventLoop,
    _ opening: @Sendable @escaping () throws(BlockError) -> OpenedFile
  ) async throws(BlockError) -> RawFile {
    let opened = await loop.blocking { () -> Result<OpenedFile, BlockError> in
      do throws(BlockError) { return .success(try opening()) } catch { return .failure(error) }
    }
    return RawFile(try opened.get(), options, on: loop)
  }

  /// What other users of the file, in this process and others, hold and don't share: for an image's inspection.
  package func locksElsewhere() async throws(BlockError) -> ImageLock {
    try checkStage(.open)
    return try await request(.open, nil) { () async throws(SystemError) in
      try await loop.blocking(in: lane) { [file] () throws(SystemError) in try ImageLock.claimedElsewhere(on: file) }
    }
  }
}

/// A file that was opened, claimed and measured. All of it blocks.
struct OpenedFile: Sendable {
  /// Where the kernel can't tell what O_DIRECT needs: what the strictest common device asks for.
  private static let cautiousAlignment = 4096

  let descriptor: FileDescriptor
  let lane: BlockingLane
  let isBlockDevice: Bool
  let sectorByteCount: Int
  let byteCount: UInt64
  let preferredByteCount: Int
  /// False for a block device.
  let isOnLocalFileSystem: Bool
  /// Alignments of memory and of requests; nil if the page cache is used.
  let direct: (memory: Int, offset: Int)?

  init(
    _ location: RawFile.Location, _ options: RawFile.Options, creating new: (byteCount: UInt64, mode: UInt32)? = nil
  ) throws(BlockError) {
    let file: FileDescriptor
    do throws(SystemError) {
      file = try Self.open(location, options, createMode: new?.mode)
      if let new { try file.truncate(to: new.byteCount) }
    } catch {
      throw BlockError(errno: error.code, .open, cause: error.detail)
    }
    try self.init(file, options)
  }

  init(_ file: FileDescriptor, _ options: RawFile.Options) throws(BlockError) {
    // Claimed before it is measured: from then on no other use changes its size.
    if let lock = options.lock { try lock.take(on: file) }
    do throws(SystemError) {
      try self.init(measuring: file, options)
    } catch {
      throw BlockError(errno: error.code, .open, cause: error.detail)
    }
  }

  private init(measuring file: FileDescriptor, _ options: RawFile.Options) throws(SystemError) {
    let status = try file.status()
    descriptor = file
    lane = status.kind == .blockDevice ? .blockDevice(status.inode) : .fileSystem(status.device)
    preferredByteCount = status.preferredByteCount
    switch status.kind {
    case .regular:
      isBlockDevice = false
      isOnLocalFileSystem = try file.isOnLocalFileSystem()
      (byteCount, sectorByteCount) = (status.byteCount, 1)
    case .blockDevice where options.allowsBlockDevice:
      isBlockDevice = true
      isOnLocalFileSystem = false
      (byteCount, sectorByteCount) = try file.blockDeviceGeometry()
    default: throw SystemError(ENXIO, "\(status.kind.rawValue), not a regular file")
    }
    direct = options.direct ? try Self.makeDirect(file, byteCount, options) : nil
  }

  /// The alignments that direct I/O needs from now on; nil, and the file stays cached, where it isn't possible.
  private static func makeDirect(
    _ file: FileDescriptor, _ byteCount: UInt64, _ options: RawFile.Options
  ) throws(SystemError) -> (memory: Int, offset: Int)? {
    let alignment = file.directAlignment() ?? (memory: cautiousAlignment, offset: cautiousAlignment)
    // No write could reach the last bytes of an odd size.
    guard options.allowsPartialLastBlock || byteCount % UInt64(alignment.offset) == 0 else { return nil }
    return try file.enableDirect() ? alignment : nil
  }

  private static func open(
    _ location: RawFile.Location, _ options: RawFile.Options, createMode: UInt32?
  ) throws(SystemError) -> FileDescriptor {
    let fileOptions = Folder.FileOptions(
      access: options.isReadOnly ? .readOnly : .readWrite, createMode: createMode,
      allowsBlockDevice: options.allowsBlockDevice)
    return switch location {
    case .beneath(let folder, let path): try folder.openFile(path, fileOptions)
    case .path(let path): try FileDescriptor.open(path: path, fileOptions)
    }
  }
}
