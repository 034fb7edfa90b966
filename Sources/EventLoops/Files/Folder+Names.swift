import CLiburing
import Descriptors
import Glibc

/// One name in a folder.
package struct FolderEntry: Hashable, Sendable {
  package enum Kind: Hashable, Sendable { case file, folder, other }

  package let name: String
  package let kind: Kind

  package init(name: String, kind: Kind) {
    self.name = name
    self.kind = kind
  }
}

// Names beneath a folder: looked up, made, changed and removed. Paths are relative to the folder and can't lead out of
// it. All of it may block: loops do it through `blocking`.
extension Folder {
  /// The folder at `path`; "." is this one.
  /// - Throws: EXDEV for a path that leads out, ENOTDIR for what isn't a folder, ELOOP for a link that isn't to be
  ///   followed, and what the kernel says.
  package func openFolder(_ path: String, followsLinks: Bool = true) throws(SystemError) -> Folder {
    var how = open_how()
    how.flags = UInt64(UInt32(bitPattern: O_RDONLY | O_CLOEXEC | O_DIRECTORY))
    how.resolve = Self.resolution(followsLinks: followsLinks)
    return Folder(adopting: FileDescriptor(adopting: try openRetrying(path, &how)), calls: calls)
  }

  /// What has that name, links followed; nil if nothing does.
  package func status(of path: String) throws(SystemError) -> FileStatus? {
    var how = open_how()
    how.flags = UInt64(UInt32(bitPattern: Int32(shim_o_path) | O_CLOEXEC))
    how.resolve = Self.resolution(followsLinks: true)
    do throws(SystemError) {
      return try FileDescriptor(adopting: try openRetrying(path, &how)).status()
    } catch {
      if error.code == ENOENT { return nil }
      throw error
    }
  }

  /// - Throws: EEXIST if the name is taken, even by a dangling link.
  package func makeFolder(_ path: String, mode: UInt32 = 0o755) throws(SystemError) {
    let (parent, name) = try parent(of: path)
    guard mkdirat(parent.descriptor.rawValue, name, mode) == 0 else { throw SystemError(errno, path) }
  }

  /// Removes the name of a file or link.
  package func removeFile(_ path: String) throws(SystemError) {
    let (parent, name) = try parent(of: path)
    guard unlinkat(parent.descriptor.rawValue, name, 0) == 0 else { throw SystemError(errno, path) }
  }

  /// - Throws: ENOTEMPTY if anything is in it.
  package func removeFolder(_ path: String) throws(SystemError) {
    let (parent, name) = try parent(of: path)
    guard unlinkat(parent.descriptor.rawValue, name, AT_REMOVEDIR) == 0 else { throw SystemError(errno, path) }
  }

  /// What is in the folder at `path`, in order of name, links not followed. Names that aren't UTF-8 are
  /// told with replacement characters.
  /// - Throws: E2BIG if there are more than `limit`.
  package func entries(of path: String = ".", limit: Int) throws(SystemError) -> [FolderEntry] {
    let folder = try openFolder(path)
    // The stream takes a descriptor of its own over, and its position with it.
    guard let copy = FileDescriptor(result: fcntl(folder.descriptor.rawValue, F_DUPFD_CLOEXEC, 0)),
      let stream = fdopendir(copy.rawValue)
    else { throw SystemError(errno, path) }
    _ = copy.release()
    defer { closedir(stream) }
    var entries: [FolderEntry] = []
    while true {
      errno = 0
      guard let found = readdir(stream) else { break }
      let name = found.pointee.name
      if name == "." || name == ".." { continue }
      guard entries.count < limit else { throw SystemError(E2BIG, "\(path) holds more than \(limit) names") }
      guard let kind = try folder.kind(of: found.pointee) else { continue }
      entries.append(FolderEntry(name: name, kind: kind))
    }
    guard errno == 0 else { throw SystemError(errno, path) }
    return entries.sorted { $0.name < $1.name }
  }

  func parent(of path: String) throws(SystemError) -> (Folder, String) {
    let parts = path.split(separator: "/", omittingEmptySubsequences: false)
    guard let name = parts.last, !name.isEmpty, name != ".", name != ".." else { throw SystemError(EINVAL, path) }
    if parts.count == 1 { return (self, path) }
    return (try openFolder(parts.dropLast().joined(separator: "/")), String(name))
  }
}

extension Folder {
  /// What the entry of this folder is, links not followed. Many file systems leave the type out (DT_UNKNOWN: XFS with
  /// ftype=0, ext4 without filetype, some NFS and FUSE), so the file itself is asked then.
  /// Nil if it was removed meanwhile.
  package func kind(of entry: dirent) throws(SystemError) -> FolderEntry.Kind? {
    switch Int(entry.d_type) {
    case Int(DT_REG): return .file
    case Int(DT_DIR): return .folder
    case Int(DT_UNKNOWN): break
    default: return .other
    }
    var status = stat()
    // By the bytes of the name, which needn't be UTF-8.
    let result = withUnsafeBytes(of: entry.d_name) {
      fstatat(
        descriptor.rawValue, $0.assumingMemoryBound(to: CChar.self).baseAddress!, &status, AT_SYMLINK_NOFOLLOW)
    }
    guard result == 0 else {
      if errno == ENOENT { return nil }
      throw SystemError(errno, entry.name)
    }
    return switch FileStatus.Kind(mode: status.st_mode) {
    case .regular: .file
    case .folder: .folder
    default: .other
    }
  }
}

extension dirent {
  fileprivate var name: String {
    withUnsafeBytes(of: d_name) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
  }
}
