import BlockCore
import Descriptors
import EventLoops
import Glibc
import RawFile

/// The files beneath a folder of this machine.
package struct LocalFolderFiles: FolderFiles {
  private let folder: Folder

  package init(_ folder: Folder) { self.folder = folder }

  /// Files are readable by their owner's group, as backups hold what their images hold.
  private static let fileMode: UInt32 = 0o640
  private static let folderMode: UInt32 = 0o750

  package func isWritable() throws(SystemError) -> Bool { try folder.isWritable() }

  package func makeFolder(_ path: String) throws(SystemError) {
    try folder.makeFolder(path, mode: Self.folderMode)
  }

  package func entries(of path: String, limit: Int) throws(SystemError) -> [FolderEntry] {
    try folder.entries(of: path, limit: limit)
  }

  package func status(of path: String) throws(SystemError) -> FileStatus? {
    try folder.status(of: path)
  }

  package func contents(of path: String, limit: Int) throws(SystemError) -> [UInt8] {
    let file = try folder.openFile(path)
    defer { file.close() }
    var bytes = [UInt8](repeating: 0, count: limit + 1)
    var count = 0
    while count < bytes.count {
      let result = bytes.withUnsafeMutableBytes {
        pread(file.rawValue, $0.baseAddress! + count, $0.count - count, off_t(count))
      }
      if result == 0 { break }
      if result > 0 { count += result } else if errno != EINTR { throw SystemError(errno, path) }
    }
    guard count <= limit else { throw SystemError(EMSGSIZE, "\(path) is longer than \(limit) bytes") }
    return Array(bytes[..<count])
  }

  package func createFile(_ path: String) throws(SystemError) -> FileDescriptor {
    try folder.openFile(path, Folder.FileOptions(access: .readWrite, createMode: Self.fileMode))
  }

  package func openFile(_ path: String, isReadOnly: Bool) throws(SystemError) -> FileDescriptor {
    try folder.openFile(path, Folder.FileOptions(access: isReadOnly ? .readOnly : .readWrite))
  }

  package func write(_ bytes: [UInt8], to file: FileDescriptor) throws(SystemError) {
    var count = 0
    while count < bytes.count {
      let result = bytes.withUnsafeBytes {
        pwrite(file.rawValue, $0.baseAddress! + count, $0.count - count, off_t(count))
      }
      if result > 0 {
        count += result
      } else if result == 0 || errno != EINTR {
        throw SystemError(result == 0 ? EIO : errno)
      }
    }
  }

  package func synchronize(_ file: FileDescriptor) throws(SystemError) {
    guard fsync(file.rawValue) == 0 else { throw SystemError(errno) }
  }

  package func synchronizeFolder(_ path: String) throws(SystemError) {
    let opened = try folder.openFolder(path)
    defer { opened.descriptor.close() }
    do throws(SystemError) {
      if try !opened.synchronize() { FileSystemNotes.shared.noteUnsynchronized(opened) }
    } catch {
      throw SystemError(error.code, path)
    }
  }

  package func rename(_ path: String, to target: String, isReplacing: Bool) throws(SystemError) {
    try folder.rename(path, to: target, isReplacing: isReplacing)
  }

  package func removeFile(_ path: String) throws(SystemError) { try folder.removeFile(path) }
  package func removeFolder(_ path: String) throws(SystemError) { try folder.removeFolder(path) }

  /// Takes no locks: reading the files of a repository with QEMU's tools is always fine.
  nonisolated(nonsending)
    package func device(
      over file: FileDescriptor, isReadOnly: Bool, direct: Bool, on loop: EventLoop
    ) async throws(BlockError) -> any BlockDevice
  {
    try await RawFile.open(file, RawFile.Options(isReadOnly: isReadOnly, direct: direct, locks: false), on: loop)
  }
}
