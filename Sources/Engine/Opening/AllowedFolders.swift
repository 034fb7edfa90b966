import EventLoops
import Glibc
import Model

/// A path beneath an allowed folder: the folder, held open, and the rest of the path.
package struct ResolvedPath: Sendable {
  package let folder: Folder
  /// Relative to the folder, without "." and "..".
  package let relative: String
  /// What the person knows it by.
  package let full: String
}

/// The folders that files may be opened in, each held open from the start on.
///
/// A path is split here by its text alone and opened beneath the folder's descriptor by the kernel, in one step: a
/// link, or a rename meanwhile, can't lead out of it.
package struct AllowedFolders: Sendable {
  private struct Entry: Sendable {
    let folder: Folder
    /// The ways in which paths may begin: as configured, and with its links resolved.
    let prefixes: [[Substring]]
  }

  private let entries: [Entry]
  /// What the folders are for, as in "image folders".
  private let purpose: String

  /// Longest path that is looked at.
  private static let maximumPathByteCount = 4096

  /// - Parameter paths: absolute, existing. Blocks.
  package init(_ paths: [String], purpose: String) throws(SystemError) {
    self.purpose = purpose
    var entries: [Entry] = []
    for path in paths {
      let folder = try Folder(path: path)
      var prefixes = [Self.components(path) ?? []]
      if let real = realpath(path, nil) {
        prefixes.append(Self.components(String(cString: real)) ?? [])
        free(real)
      }
      entries.append(Entry(folder: folder, prefixes: prefixes))
    }
    self.entries = entries
  }

  package var folders: [Folder] { entries.map(\.folder) }

  /// - Throws: `pathOutsideFolders`, `invalidField` for what can't be a path.
  package func resolve(_ path: String) throws(DomainError) -> ResolvedPath {
    guard path.utf8.count <= Self.maximumPathByteCount, !path.utf8.contains(0), path.hasPrefix("/") else {
      throw DomainError(.invalidField, "a path is absolute, has no NUL, and at most \(Self.maximumPathByteCount) bytes")
    }
    if let parts = Self.components(path) {
      for entry in entries {
        for prefix in entry.prefixes where parts.starts(with: prefix) {
          let rest = parts.dropFirst(prefix.count).joined(separator: "/")
          return ResolvedPath(folder: entry.folder, relative: rest.isEmpty ? "." : rest, full: path)
        }
      }
    }
    throw DomainError(
      .pathOutsideFolders, "\(path) isn't beneath one of the allowed \(purpose)",
      remedy: "move it there, or allow its folder in the configuration")
  }

  /// The names of an absolute path, "." and ".." taken out by the text alone; nil if ".." climbs above the root.
  static func components(_ path: String) -> [Substring]? {
    var parts: [Substring] = []
    for part in path.split(separator: "/") where part != "." {
      if part == ".." {
        guard parts.popLast() != nil else { return nil }
      } else {
        parts.append(part)
      }
    }
    return parts
  }
}
