import Glibc

/// Paths of the configuration: made absolute by their text, and compared by where they really lead.
enum FolderPath {
  /// `path` as seen from `folder` (absolute), without `.`, `..` and doubled slashes.
  static func absolute(_ path: String, in folder: String) -> String {
    normalized(path.hasPrefix("/") ? path : folder + "/" + path)
  }

  /// Where the path leads once every link is followed. What doesn't exist yet is taken as it is written; nil if a
  /// link on the way leads nowhere, so that it can't be told.
  static func resolved(_ path: String) -> String? {
    var missing: [String] = []
    var existing = path
    while true {
      if let found = realpath(existing, nil) {
        defer { free(found) }
        return normalized(([String(cString: found)] + missing.reversed()).joined(separator: "/"))
      }
      var status = stat()
      if lstat(existing, &status) == 0, status.st_mode & S_IFMT == S_IFLNK { return nil }
      guard existing != "/", let slash = existing.lastIndex(of: "/") else { return nil }
      missing.append(String(existing[existing.index(after: slash)...]))
      existing = slash == existing.startIndex ? "/" : String(existing[..<slash])
    }
  }

  /// Whether something that is no folder is there, or on the way there.
  static func isBlocked(_ path: String) -> Bool {
    var status = stat()
    return stat(path, &status) == 0 ? status.st_mode & S_IFMT != S_IFDIR : errno == ENOTDIR
  }

  /// Whether `path` is `folder` or lies beneath it; both absolute and normalized.
  static func contains(_ folder: String, _ path: String) -> Bool {
    path == folder || folder == "/" || path.hasPrefix(folder + "/")
  }

  private static func normalized(_ path: String) -> String {
    var components: [Substring] = []
    for component in path.split(separator: "/") where component != "." {
      if component == ".." { _ = components.popLast() } else { components.append(component) }
    }
    return "/" + components.joined(separator: "/")
  }
}

/// The folders of the configuration, none of which may be, or lie in, another one: what the server writes in one of
/// them must not appear in another.
struct FolderSet {
  private struct Member {
    let place: ConfigurationNode
    let path: String
    let resolved: String
  }

  private var members: [Member] = []

  /// Notes a fault if the folder can't be one, or overlaps one that was added before.
  mutating func add(_ path: String, at place: ConfigurationNode) {
    guard !FolderPath.isBlocked(path) else {
      return place.fault("\(path), or what it lies in, is there and is no folder")
    }
    guard let resolved = FolderPath.resolved(path) else {
      return place.fault("a link on the way to \(path) leads nowhere")
    }
    for other in members {
      let links = resolved == path && other.resolved == other.path ? "" : " once links are followed"
      if other.resolved == resolved {
        place.fault("\(path) is the same folder as \(other.place.keyPath)\(links)")
      } else if FolderPath.contains(other.resolved, resolved) {
        place.fault("\(path) lies in the folder of \(other.place.keyPath), \(other.path)\(links)")
      } else if FolderPath.contains(resolved, other.resolved) {
        place.fault("\(path) holds the folder of \(other.place.keyPath), \(other.path)\(links)")
      }
    }
    members.append(Member(place: place, path: path, resolved: resolved))
  }
}
