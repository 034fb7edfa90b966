import CLiburing
import Descriptors
import Glibc

// What a path leads to, as the kernel resolves it: links are followed, and ".." is the folder above the one that was
// reached, not the name before it.
extension FileDescriptor {
  /// A reference to what `path` leads to: it needs no right to the file itself, waits for no FIFO, and does nothing to a
  /// device. Only its status and its path can be asked for. May block on the disk.
  package static func reference(to path: String) throws(SystemError) -> FileDescriptor {
    let number = Glibc.open(path, Int32(shim_o_path) | O_CLOEXEC)
    guard number >= 0 else { throw SystemError(errno, path) }
    return FileDescriptor(adopting: number)
  }

  /// Where the open file is now: an absolute path without links.
  /// - Throws: ENOENT if it was removed, and what the kernel says where there is no /proc.
  package func currentPath() throws(SystemError) -> String {
    var bytes = [UInt8](repeating: 0, count: Int(PATH_MAX))
    let count = bytes.withUnsafeMutableBytes { readlink("/proc/self/fd/\(rawValue)", $0.baseAddress!, $0.count) }
    guard count >= 0 else { throw SystemError(errno, "/proc/self/fd") }
    return String(decoding: bytes[..<count], as: UTF8.self)
  }
}

extension FileStatus {
  /// Whether both are the same file, or nodes of the same block device.
  package func isSameFile(as other: FileStatus) -> Bool {
    if kind == .blockDevice, other.kind == .blockDevice { return deviceNumber == other.deviceNumber }
    return device == other.device && inode == other.inode
  }

  /// Whether `path` leads to this file now; not if that can't be told. May block on the disk.
  package func isFound(at path: String) -> Bool {
    guard let found = try? FileDescriptor.reference(to: path).status() else { return false }
    return isSameFile(as: found)
  }
}
