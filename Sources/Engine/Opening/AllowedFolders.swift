import Descriptors
import EventLoops
import Failures
import Glibc
import Model
import Repositories

/// What a path leads to, beneath an allowed folder that is held open.
package struct ResolvedPath: Sendable {
  package let folder: Folder
  /// Relative to the folder, without links, "." and ".."; "." is the folder itself.
  package let relative: String
  /// Absolute, without links.
  package let real: String
  /// Of what is there; where names are missing, of the folder that the first of them would be made in.
  package let status: FileStatus
  /// Names at the end of ``relative`` that don't exist yet.
  package let missing: [String]
}

/// The folders that files may be opened in.
///
/// A path is resolved by the kernel, with links and ".." as the kernel means them. The result must lie beneath an
/// allowed folder. It is then opened beneath that folder's descriptor without following any link, so that a link or a
/// rename meanwhile can't lead out; where the path has come to mean another file by then, all of it is tried again.
///
/// No folder stays open between two look-ups: each look-up finds what is mounted at the configured path, or has taken
/// its place, at that moment. Work that takes long asks ``EventLoops/FileStatus/isFound(at:)`` before it tells of
/// success. All calls block.
package struct AllowedFolders: Sendable {
  private struct Entry: Sendable {
    /// As configured.
    let path: String
    /// As it was at the start, without links.
    let realAtStart: String
  }

  private let entries: [Entry]
  /// What the folders are for, as in "image folders".
  private let purpose: String

  /// Longest path that is looked at.
  private static let maximumPathByteCount = 4096
  /// How often a file is looked up anew that was replaced between its look-up and its opening.
  private static let lookUpAttempts = 8

  /// - Parameter paths: absolute, existing.
  package init(_ paths: [String], purpose: String) throws(SystemError) {
    self.purpose = purpose
    var entries: [Entry] = []
    for path in paths {
      entries.append(Entry(path: path, realAtStart: try Folder(path: path).descriptor.currentPath()))
    }
    self.entries = entries
  }

  /// The folders as they are now, with their paths; those that can't be opened are left out.
  package func openAll() -> [(path: String, folder: Folder)] {
    entries.compactMap { entry in (try? Folder(path: entry.path)).map { (entry.path, $0) } }
  }

  // MARK: What is there

  /// Opens the file that `path` leads to.
  /// - Parameter options: don't create.
  /// - Throws: as ``resolve(_:)``, and `SystemError` as ``EventLoops/Folder/openFile(_:_:)``.
  package func openFile(_ path: String, _ options: Folder.FileOptions) throws -> FileDescriptor {
    var options = options
    options.followsLinks = false
    for _ in 0..<Self.lookUpAttempts {
      let place = try resolve(path)
      do throws(SystemError) {
        let file = try place.folder.openFile(place.relative, options)
        if try file.status().isSameFile(as: place.status) { return file }
      } catch {
        // The look-up found it without a link.
        guard [ENOENT, ENOTDIR, ELOOP, EXDEV, ESTALE].contains(error.code) else { throw error }
      }
    }
    throw DomainError(
      .sourceNotFound, "\(path) was replaced each time that it was opened", remedy: "try again when it rests")
  }

  /// What `path` leads to.
  /// - Throws: `pathOutsideFolders`, `invalidField` for what can't be a path, `sourceNotFound`, `permissionDenied`.
  package func resolve(_ path: String) throws(DomainError) -> ResolvedPath {
    try resolve(path) { _ in false }
  }

  /// What `path` leads to, where its last names may be missing, so that folders can be made.
  package func resolveToMake(_ path: String) throws(DomainError) -> ResolvedPath {
    try resolve(path) { !$0.contains("..") }
  }

  /// The folder in which `path`'s last name stands, and that name, which needn't exist and isn't followed.
  /// - Throws: as ``resolve(_:)`` for the folder, `invalidField` without a name.
  package func resolveName(_ path: String) throws(DomainError) -> (folder: ResolvedPath, name: String) {
    try Self.check(path)
    let name = FilePath.name(of: path)
    guard !name.isEmpty, name != ".", name != ".." else {
      throw DomainError(.invalidField, "\(path) names no file", remedy: "end the path with the file's name")
    }
    guard name.utf8.count <= Int(NAME_MAX) else { throw DomainError(SystemError(ENAMETOOLONG), of: path) }
    let folder = String(path.dropLast(name.count))
    let place = try resolve(folder)
    guard place.status.kind == .folder else { throw DomainError(SystemError(ENOTDIR), of: folder) }
    return (place, name)
  }

  // MARK: The look-up

  private static func check(_ path: String) throws(DomainError) {
    guard path.utf8.count <= maximumPathByteCount, !path.utf8.contains(0), path.hasPrefix("/") else {
      throw DomainError(.invalidField, "a path is absolute, has no NUL, and at most \(maximumPathByteCount) bytes")
    }
  }

  /// - Parameter permits: whether these names at the path's end may be missing.
  private func resolve(_ path: String, permits: ([String]) -> Bool) throws(DomainError) -> ResolvedPath {
    try Self.check(path)
    for _ in 0..<Self.lookUpAttempts {
      let found = try Found(path)
      guard let (folder, root) = try allowedFolder(of: found.real) else { throw refusal(of: path) }
      let isMissing = found.failure?.code == ENOENT && found.status.kind == .folder
      if let failure = found.failure, !isMissing || !permits(found.missing) { throw DomainError(failure, of: path) }
      let rest = found.real.dropFirst(root.count).drop { $0 == "/" }
      let names = (rest.isEmpty ? [] : [String(rest)]) + found.missing
      let relative = names.isEmpty ? "." : names.joined(separator: "/")
      // A link that leads nowhere isn't a missing name.
      if let name = found.missing.first, (try? found.reference.hasEntry(name)) ?? true {
        guard found.reference.isLink(name) else { continue }
        throw DomainError(SystemError(ENOENT), of: path)
      }
      return ResolvedPath(
        folder: folder, relative: relative, real: ([found.real] + found.missing).joined(separator: "/"),
        status: found.status, missing: found.missing)
    }
    throw DomainError(.sourceNotFound, "\(path) changed each time that it was looked up", remedy: "try again")
  }

  /// The allowed folder that the link-free path `real` lies in or is, as it is now, and the folder's own path.
  private func allowedFolder(of real: String) throws(DomainError) -> (Folder, String)? {
    // Those that are likely come first: another one's storage may not answer.
    let likely = entries.filter { Self.contains($0.path, real) || Self.contains($0.realAtStart, real) }
    let others = entries.filter { entry in !likely.contains { $0.path == entry.path } }
    for entry in likely + others {
      guard let folder = try? Folder(path: entry.path), let root = try? folder.descriptor.currentPath() else {
        continue
      }
      if Self.contains(root, real) { return (folder, root) }
    }
    return nil
  }

  private func refusal(of path: String) -> DomainError {
    for entry in entries where Self.contains(entry.path, path) {
      do throws(SystemError) { _ = try Folder(path: entry.path) } catch {
        return DomainError(
          .sourceNotFound, "\(path) can't be reached: \(entry.path), one of the allowed \(purpose), is gone: \(error)",
          remedy: "mount the folder's storage, or make the folder")
      }
    }
    return DomainError(
      .pathOutsideFolders, "\(path) doesn't lead beneath one of the allowed \(purpose)",
      remedy: "use a path beneath one of them, or allow its folder in the configuration")
  }

  /// Whether `path` is `folder` or lies beneath it, as their texts have it.
  static func contains(_ folder: String, _ path: String) -> Bool {
    path == folder || folder == "/" || path.hasPrefix(folder.hasSuffix("/") ? folder : folder + "/")
  }
}

/// As much of a path as is there.
private struct Found {
  let reference: FileDescriptor
  let real: String
  let status: FileStatus
  /// Why there isn't more; nil if all of the path is there.
  private(set) var failure: SystemError?
  /// The names beyond it.
  private(set) var missing: [String] = []

  init(_ path: String) throws(DomainError) {
    var rest = Substring(path)
    while true {
      do throws(SystemError) {
        let found = try FileDescriptor.reference(to: rest.isEmpty ? "/" : String(rest))
        (real, status) = (try found.currentPath(), try found.status())
        reference = found
        missing.reverse()
        return
      } catch {
        failure = failure ?? error
        // Each turn takes a name away; "/" itself can always be opened, or nothing can.
        guard let slash = rest.lastIndex(of: "/") else { throw DomainError(error, of: path) }
        let name = rest[rest.index(after: slash)...]
        if !name.isEmpty, name != "." { missing.append(String(name)) }
        rest = rest[..<slash]
      }
    }
  }
}

extension FileDescriptor {
  /// Whether the folder has that name, if only as a link. Blocks.
  func hasEntry(_ name: String) throws(SystemError) -> Bool {
    var status = stat()
    if fstatat(rawValue, name, &status, AT_SYMLINK_NOFOLLOW) == 0 { return true }
    if errno == ENOENT { return false }
    throw SystemError(errno, name)
  }

  fileprivate func isLink(_ name: String) -> Bool {
    var status = stat()
    return fstatat(rawValue, name, &status, AT_SYMLINK_NOFOLLOW) == 0 && status.st_mode & S_IFMT == S_IFLNK
  }
}
