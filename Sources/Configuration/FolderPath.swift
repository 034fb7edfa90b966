import Descriptors
import Glibc

/// Paths of the configuration: made absolute as the kernel understands them, and compared by where they really lead.
enum FolderPath {
  /// `path` as seen from `folder` (absolute), without `.`, `..` and doubled slashes.
  ///
  /// `..` after a link is the folder above the one that the link leads to, as for the kernel; a link that leads nowhere
  /// keeps its `..`, and the path can't be opened. All other links stay as they are written.
  static func absolute(_ path: String, in folder: String) -> String {
    var names: [Substring] = []
    for name in (path.hasPrefix("/") ? path : folder + "/" + path).split(separator: "/") where name != "." {
      guard name == ".." else {
        names.append(name)
        continue
      }
      let above = "/" + names.joined(separator: "/")
      if names.last == ".." {
        names.append(name)
      } else if !isLink(above) {
        _ = names.popLast()
      } else if let found = realpath(above, nil) {
        names = Array(String(cString: found).split(separator: "/").dropLast())
        free(found)
      } else {
        names.append(name)
      }
    }
    return "/" + names.joined(separator: "/")
  }

  /// The folder that `path` (absolute) is named in.
  static func folder(of path: String) -> String {
    let names = path.split(separator: "/").dropLast()
    return "/" + names.joined(separator: "/")
  }

  private static func isLink(_ path: String) -> Bool {
    var status = stat()
    return lstat(path, &status) == 0 && status.st_mode & S_IFMT == S_IFLNK
  }

  /// Where the path leads once every link is followed. What doesn't exist yet is taken as it is written; nil if a
  /// link on the way leads nowhere, so that it can't be told.
  static func resolved(_ path: String) -> String? {
    var missing: [String] = []
    var existing = path
    while true {
      if let found = realpath(existing, nil) {
        defer { free(found) }
        let names = String(cString: found).split(separator: "/").map(String.init) + missing.reversed()
        return "/" + names.joined(separator: "/")
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

  /// Why the file at `path`, or with O_DIRECTORY the folder, can't be opened to be read; nil if it can.
  static func failureToOpen(_ path: String, _ flags: Int32) -> String? {
    guard let file = FileDescriptor(result: open(path, flags | O_RDONLY | O_CLOEXEC | O_NONBLOCK)) else {
      return String(cString: strerror(errno))
    }
    var status = stat()
    guard flags & O_DIRECTORY == 0, fstat(file.rawValue, &status) == 0, status.st_mode & S_IFMT == S_IFDIR else {
      return nil
    }
    return String(cString: strerror(EISDIR))
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

  /// Notes a fault if the folder can't be one, or overlaps one that was added before. False if it can't be one.
  @discardableResult
  mutating func add(_ path: String, at place: ConfigurationNode) -> Bool {
    guard !FolderPath.isBlocked(path) else {
      place.fault("\(path), or what it lies in, is there and is no folder")
      return false
    }
    guard let resolved = FolderPath.resolved(path) else {
      place.fault("a link on the way to \(path) leads nowhere")
      return false
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
    return true
  }
}
