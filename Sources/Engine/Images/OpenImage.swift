import Bytes
import BlockCore
import Descriptors
import EventLoops
import Glibc
import Model
import Qcow2
import Repositories

/// An image that is open for one piece of work, confined to the loop that it was opened on.
struct OpenImage: Sendable {
  let format: OpenFormat
  /// What a person knows it by.
  let name: String
  /// Every file of it, the image itself first; none for an export of another server.
  let files: [LayerFile]
  /// Whether the image's own data go past the page cache.
  let isDirect: Bool
  /// Nothing but this server writes to its block devices: its owner's promise.
  let isExclusive: Bool

  /// What the guest sees.
  var device: any BlockDevice { format.device }

  /// What opening the image to be written has put right, in words for the log of the job that opened it; nil if the
  /// last writer had closed it.
  var repair: String? {
    format.qcow2?.repairedAtOpening.map {
      "\(name) was not closed by its last writer: \($0) refcounts were put right, and no byte of the guest was changed"
    }
  }

  /// What its files were when it had been opened, with its locks held, and before anything was changed in them.
  var opened: ImageIdentity { ImageIdentity(layers: files.map(\.opened)) }

  /// Changes whenever a file of the image may have changed.
  var generation: FileGeneration { FileGeneration(files.map(\.generation)) }

  /// The generation as it is now. Blocks.
  func currentGeneration() throws(SystemError) -> FileGeneration {
    var now: [FileGeneration] = []
    for file in files { now.append(try FileGeneration(of: file.descriptor)) }
    return FileGeneration(now)
  }

  /// Refuses an image one of whose paths doesn't lead to the file any more that is open for it. Blocks.
  func requireInPlace() throws(DomainError) {
    for file in files where !file.status.isFound(at: file.path) {
      throw DomainError(
        .imageInUse,
        "\(file.path) was moved or replaced during the work on it, which was done on the file that was "
          + "there before",
        remedy: "start the work again when the file, and the folders above it, stay where they are")
    }
  }
}

/// What makes a guest's disk of a file's bytes. It stays reachable whatever filters stand above it.
enum OpenFormat: Sendable {
  case raw(any BlockDevice)
  case qcow2(Qcow2Image)

  var device: any BlockDevice {
    switch self {
    case .raw(let device): device
    case .qcow2(let image): image
    }
  }

  var qcow2: Qcow2Image? { if case .qcow2(let image) = self { image } else { nil } }
}

/// One file of a chain.
struct LayerFile: Sendable {
  let path: String
  let format: DiskFormat
  /// For questions about the file only; the device that owns it does the I/O.
  let descriptor: FileDescriptor
  let status: FileStatus
  let generation: FileGeneration
  /// When the file, or what is said of it, was last changed before it was opened: in seconds since 1970.
  let changed: Int64
  /// What it was when its lock had been taken.
  let opened: ImageIdentity.Layer
  /// Nil of one that is only read.
  let closing: ClosingIdentity?
}

extension FileDescriptor {
  /// The time of the last change of the file or of what is said of it, in seconds since 1970: nobody can set it back.
  func changeSeconds() throws(SystemError) -> Int64 {
    var status = stat()
    guard fstat(rawValue, &status) == 0 else { throw SystemError(errno) }
    return Int64(status.st_ctim.tv_sec)
  }
}

/// What tells one state of a file from another: size, times of change, and which file it is.
struct FileGeneration: Hashable, Sendable {
  private let text: String

  init(of file: FileDescriptor) throws(SystemError) {
    var status = stat()
    guard fstat(file.rawValue, &status) == 0 else { throw SystemError(errno) }
    text =
      "\(status.st_dev).\(status.st_ino).\(status.st_size).\(status.st_mtim.tv_sec).\(status.st_mtim.tv_nsec)."
      + "\(status.st_ctim.tv_sec).\(status.st_ctim.tv_nsec)"
  }

  /// The generation of an image that is open to be written, see ``ImageGraph``.
  init(period: ULID, changeCount: UInt64) { text = "\(period).\(changeCount)" }

  /// The generation of several files together.
  init(_ parts: [FileGeneration]) { text = parts.map(\.text).joined(separator: "/") }

  /// Short enough for a query parameter.
  var token: String { String(Digest(of: Array(text.utf8).span.bytes).description.prefix(32)) }
}
