import Descriptors
import Glibc

/// Which time zone the host is in, by name.
package struct HostZone: Sendable {
  private let folder: ZoneFolder
  /// `TZ` of the environment.
  private let variable: String?
  private let linkPath: String
  private let namePath: String

  /// The paths are those of every Linux, but for tests.
  package init(
    _ folder: ZoneFolder, variable: String? = getenv("TZ").map { String(cString: $0) },
    linkPath: String = "/etc/localtime", namePath: String = "/etc/timezone"
  ) {
    self.folder = folder
    self.variable = variable
    self.linkPath = linkPath
    self.namePath = namePath
  }

  /// By `TZ`, else by where `/etc/localtime` leads, else the zone whose file it is a copy of (the one that
  /// `/etc/timezone` names, if it is that). A host without `/etc/localtime` is in UTC. Nil if none of this names a zone.
  package var name: String? {
    if let variable { return named(variable) }
    if let target = realpath(linkPath, nil) {
      defer { free(target) }
      return named(String(cString: target)) ?? nameOfCopy
    }
    return "UTC"
  }

  /// As the C library reads `TZ`; it stands for a path too.
  private func named(_ text: String) -> String? {
    var name = text.hasPrefix(":") ? String(text.dropFirst()) : text
    if name.isEmpty { return "UTC" }
    let paths = [
      folder.path,
      realpath(folder.path, nil).map { path in
        defer { free(path) }
        return String(cString: path)
      } ?? folder.path,
    ]
    for path in paths where name.hasPrefix(path + "/") { name = String(name.dropFirst(path.utf8.count + 1)) }
    for prefix in ["posix/", "right/"] where name.hasPrefix(prefix) { name = String(name.dropFirst(prefix.utf8.count)) }
    return (try? folder.rules(named: name)) == nil ? nil : name
  }

  private var nameOfCopy: String? {
    guard let copy = contents(linkPath) else { return nil }
    let written = contents(namePath).map { String(decoding: $0, as: UTF8.self) }
    let first = written?.split(whereSeparator: \.isWhitespace).first.map(String.init)
    // Names of places before those that only abbreviate.
    let names = folder.names()
    let candidates = [first].compactMap { $0 } + names.filter { $0.contains("/") } + names
    return candidates.first { name in
      (try? folder.rules(named: name)) != nil && contents("\(folder.path)/\(name)") == copy
    }
  }

  private func contents(_ path: String) -> [UInt8]? {
    guard let file = FileDescriptor(result: open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)) else {
      return nil
    }
    var bytes = [UInt8](repeating: 0, count: 1 << 16)
    let count = bytes.withUnsafeMutableBytes { pread(file.rawValue, $0.baseAddress, $0.count, 0) }
    return count < 0 ? nil : Array(bytes.prefix(count))
  }
}
