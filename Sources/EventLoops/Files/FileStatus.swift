import Descriptors
import Glibc

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
  /// Of a device node: which device it stands for, whatever the node.
  package let deviceNumber: UInt64
}

extension FileDescriptor {
  package func status() throws(SystemError) -> FileStatus {
    var status = stat()
    guard fstat(rawValue, &status) == 0 else { throw .last }
    return FileStatus(
      kind: FileStatus.Kind(mode: status.st_mode), byteCount: UInt64(status.st_size),
      allocatedByteCount: UInt64(status.st_blocks) * 512, preferredByteCount: Int(status.st_blksize),
      device: UInt64(status.st_dev), inode: UInt64(status.st_ino),
      deviceNumber: UInt64(status.st_rdev))
  }
}
