import BlockCore
import Descriptors
import EventLoops
import Glibc
import Model

/// The files beneath one folder, as repositories and restores need them: everything that can fail is here, so that
/// tests can fail it.
///
/// Paths are relative, with "/" between names; "." is the folder itself. They are resolved beneath the folder's
/// descriptor and never lead out of it. All calls block but ``device(over:isReadOnly:direct:on:)``: they are made
/// through `EventLoop.blocking`.
package protocol FolderFiles: Sendable {
  /// Whether anything can be written here at all.
  func isWritable() throws(SystemError) -> Bool
  /// - Throws: EEXIST if the name is taken.
  func makeFolder(_ path: String) throws(SystemError)
  /// In order of name.
  /// - Throws: E2BIG if there are more than `limit`.
  func entries(of path: String, limit: Int) throws(SystemError) -> [FolderEntry]
  /// Nil if nothing has that name.
  func status(of path: String) throws(SystemError) -> FileStatus?
  /// - Throws: EMSGSIZE if the file is longer than `limit` bytes.
  func contents(of path: String, limit: Int) throws(SystemError) -> [UInt8]
  /// An empty file, open for reading and writing.
  /// - Throws: EEXIST if the name is taken.
  func createFile(_ path: String) throws(SystemError) -> FileDescriptor
  /// An existing regular file.
  func openFile(_ path: String, isReadOnly: Bool) throws(SystemError) -> FileDescriptor
  /// Stores all of `bytes` at the start of the file.
  func write(_ bytes: [UInt8], to file: FileDescriptor) throws(SystemError)
  /// Makes the file's bytes and size durable.
  func synchronize(_ file: FileDescriptor) throws(SystemError)
  /// Makes the names in a folder durable, as far as the file system can.
  func synchronizeFolder(_ path: String) throws(SystemError)
  /// - Throws: EEXIST if `target` is taken and `isReplacing` is false.
  func rename(_ path: String, to target: String, isReplacing: Bool) throws(SystemError)
  func removeFile(_ path: String) throws(SystemError)
  /// - Throws: ENOTEMPTY if it holds anything.
  func removeFolder(_ path: String) throws(SystemError)

  /// The open file as a device of the calling loop; closing it closes the file.
  /// - Parameter direct: past the page cache, where the file system can.
  nonisolated(nonsending)
    func device(
      over file: FileDescriptor, isReadOnly: Bool, direct: Bool, on loop: EventLoop
    ) async throws(BlockError) -> any BlockDevice
}

extension FolderFiles {
  /// Makes the folder unless it is there; true if it was made.
  package func ensureFolder(_ path: String) throws(SystemError) -> Bool {
    do throws(SystemError) {
      try makeFolder(path)
      return true
    } catch {
      guard error.code == EEXIST else { throw error }
      return false
    }
  }

  /// Writes a small file so that it is found whole or not at all: as a work file, made durable, renamed, and the
  /// folder made durable. What it replaces stays until then. The work file is removed if any of it fails.
  package func publish(
    _ bytes: [UInt8], as path: String, by way: String, isReplacing: Bool
  ) throws(SystemError) {
    let file = try createFile(way)
    do throws(SystemError) {
      try write(bytes, to: file)
      try synchronize(file)
      file.close()
      try rename(way, to: path, isReplacing: isReplacing)
    } catch {
      file.close()
      // Nothing to add if it can't be removed: recovery will.
      try? removeFile(way)
      throw error
    }
    try synchronizeFolder(FilePath.folder(of: path))
  }

  /// Refuses a folder that `path` doesn't lead to any more, as it was moved, replaced or mounted over.
  package func requireInPlace(at path: String) throws {
    guard let status = try status(of: "."), status.isFound(at: path) else {
      throw DomainError(
        .repositoryUnavailable, "\(path) was moved, replaced or mounted over while it was written to",
        remedy: "mount the repository's storage, or move its folder back, then try again")
    }
  }

  /// Removes the file if it is there; true if it was.
  package func removeIfPresent(_ path: String) throws(SystemError) -> Bool {
    do throws(SystemError) {
      try removeFile(path)
      return true
    } catch {
      guard error.code == ENOENT else { throw error }
      return false
    }
  }
}
