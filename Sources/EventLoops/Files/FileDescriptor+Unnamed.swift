import CLiburing
import Descriptors
import Glibc

extension FileDescriptor {
  /// A new, empty regular file on the file system of `folder`, to be read and written. It has no name, so that its space
  /// is free again when it is closed, or its process ends however. Blocks.
  /// - Parameter folder: trusted.
  package static func unnamed(in folder: String) throws(SystemError) -> FileDescriptor {
    let flags = O_RDWR | O_CLOEXEC
    if let file = FileDescriptor(result: Glibc.open(folder, flags | Int32(shim_o_tmpfile), 0o600)) { return file }
    // Not every file system, and no old kernel, has files without a name: one is made and loses it at once.
    guard [EOPNOTSUPP, EISDIR, EINVAL].contains(errno) else { throw SystemError(errno, folder) }
    let name = "\(folder)/.cobweb-\(UInt64.random(in: .min ... .max))"
    guard let file = FileDescriptor(result: Glibc.open(name, flags | O_CREAT | O_EXCL, 0o600)) else {
      throw SystemError(errno, folder)
    }
    guard unlink(name) == 0 else { throw SystemError(errno, folder) }
    return file
  }
}
