import Glibc
import Synchronization

/// An open file and the duty to close it.
///
/// May be shared; its owner sees to it that nothing uses it while or after it is closed explicitly.
package final class FileDescriptor: Sendable {
  private let number: Atomic<Int32>

  /// Takes over `descriptor`, which must be open.
  package init(adopting descriptor: Int32) {
    precondition(descriptor >= 0)
    number = Atomic(descriptor)
  }

  deinit { close() }

  /// The kernel's number, −1 once closed (which every system call answers with EBADF).
  package var rawValue: Int32 { number.load(ordering: .relaxed) }

  /// Closes the file now rather than with its last reference. May block for a file with locks or dirty pages on a
  /// network file system, so loops do it through `blocking`. Idempotent.
  package func close() {
    let descriptor = number.exchange(-1, ordering: .acquiringAndReleasing)
    if descriptor >= 0 { _ = Glibc.close(descriptor) }
  }
}

/// What kind of file a descriptor has open, and its size.
package struct FileStatus: Hashable, Sendable {
  package enum Kind: String, Hashable, Sendable {
    case regular = "a regular file"
    case blockDevice = "a block device"
    case folder = "a folder"
    case characterDevice = "a character device"
    case fifo = "a FIFO"
    case socket = "a socket"
    case other = "a special file"

    init(mode: mode_t) {
      self =
        switch mode & S_IFMT {
        case S_IFREG: .regular
        case S_IFBLK: .blockDevice
        case S_IFDIR: .folder
        case S_IFCHR: .characterDevice
        case S_IFIFO: .fifo
        case S_IFSOCK: .socket
        default: .other
        }
    }
  }

  package let kind: Kind
  /// 0 for a block device: ask ``FileDescriptor/blockDeviceGeometry()``.
  package let byteCount: UInt64
  /// Storage taken, in bytes.
  package let allocatedByteCount: UInt64
  /// The unit that the file system likes best.
  package let preferredByteCount: Int
  /// Which file it is: the same pair is the same file, whatever its name.
  package let device: UInt64
  package let inode: UInt64
}

extension FileDescriptor {
  package func status() throws(SystemError) -> FileStatus {
    var status = stat()
    guard fstat(rawValue, &status) == 0 else { throw .last }
    return FileStatus(
      kind: FileStatus.Kind(mode: status.st_mode), byteCount: UInt64(status.st_size),
      allocatedByteCount: UInt64(status.st_blocks) * 512, preferredByteCount: Int(status.st_blksize),
      device: UInt64(status.st_dev), inode: UInt64(status.st_ino))
  }
}
