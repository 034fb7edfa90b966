import Bytes
import Descriptors
import Glibc
import Locks

/// The time zones that the host has: a folder of TZif files, which the package tzdata brings.
///
/// Each look-up asks the file whether it is still the one that was read, so that an update of tzdata counts at once.
/// Foundation's `TimeZone` isn't used: it has rules of its own, and no update changes them.
package final class ZoneFolder: Sendable {
  /// What tells one version of a file from the next.
  private struct Version: Equatable {
    let device: UInt
    let inode: UInt
    let size: Int
    let modified: Int
    let changed: Int

    init(_ status: stat) {
      device = UInt(status.st_dev)
      inode = UInt(status.st_ino)
      size = Int(status.st_size)
      modified = status.st_mtim.tv_sec &* 1_000_000_000 &+ status.st_mtim.tv_nsec
      changed = status.st_ctim.tv_sec &* 1_000_000_000 &+ status.st_ctim.tv_nsec
    }
  }

  package let path: String
  private let known = Lock<[String: (version: Version, rules: ZoneRules)]>([:])

  /// Zones that are kept in memory.
  private static let maximumKnown = 1024

  /// - Parameter path: the host's, unless told otherwise.
  package init(path: String = ZoneFolder.standardPath) { self.path = path }

  /// `TZDIR` of the environment, as for the C library, or where all systems have it.
  package static var standardPath: String {
    guard let folder = getenv("TZDIR").map({ String(cString: $0) }), folder.hasPrefix("/") else {
      return "/usr/share/zoneinfo"
    }
    return folder
  }

  /// Reads the zone's file unless it was read already. `UTC` needs none.
  package func rules(named name: String) throws(ZoneFault) -> ZoneRules {
    guard name != ZoneRules.utc.name else { return .utc }
    guard let file = file(of: name) else { throw missing(name) }
    var status = stat()
    guard stat(file, &status) == 0, status.st_mode & S_IFMT == S_IFREG else { throw missing(name) }
    let version = Version(status)
    if let known = known.withLock({ $0[name] }), known.version == version { return known.rules }
    return try read(file, name)
  }

  private func read(_ file: String, _ name: String) throws(ZoneFault) -> ZoneRules {
    guard let (bytes, version) = try Self.contents(of: file, name) else { throw missing(name) }
    let rules: ZoneRules
    do {
      rules = try ZoneFile.rules(bytes, name: name)
    } catch {
      // zone.tab and its like are no zones.
      guard bytes.starts(with: "TZif".utf8) else { throw missing(name) }
      throw .damaged(name: name, reason: error.reason)
    }
    known.withLock { known in
      if known.count >= Self.maximumKnown { known.removeAll() }
      known[name] = (version, rules)
    }
    return rules
  }

  // MARK: Files

  /// The absolute path; nil if the name leads to nothing in the folder.
  private func file(of name: String) -> String? {
    guard Self.isName(name), let folder = Self.resolved(path), let file = Self.resolved(path + "/" + name),
      file.hasPrefix(folder + "/")
    else { return nil }
    return file
  }

  /// Names that tz could give, none of which leads upwards.
  private static func isName(_ name: String) -> Bool {
    name.utf8.count <= 128
      && name.split(separator: "/", omittingEmptySubsequences: false).allSatisfy { part in
        !part.isEmpty
          && part.utf8.allSatisfy {
            (0x30...0x39).contains($0) || (0x41...0x5A).contains($0 & 0xDF) || "+-_".utf8.contains($0)
          }
      }
  }

  private static func resolved(_ path: String) -> String? {
    guard let resolved = realpath(path, nil) else { return nil }
    defer { free(resolved) }
    return String(cString: resolved)
  }

  /// Nil if the file isn't there, or is no regular file of a sensible size.
  private static func contents(
    of file: String, _ name: String
  ) throws(ZoneFault) -> (bytes: [UInt8], version: Version)? {
    guard let descriptor = FileDescriptor(result: open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)) else {
      if errno == ENOENT { return nil }
      throw .unreadable(name: name, errno: errno)
    }
    var status = stat()
    guard fstat(descriptor.rawValue, &status) == 0, status.st_mode & S_IFMT == S_IFREG,
      status.st_size <= ZoneFile.maximumByteCount
    else { return nil }
    var bytes = [UInt8](repeating: 0, count: Int(status.st_size))
    let count = bytes.withUnsafeMutableBytes { pread(descriptor.rawValue, $0.baseAddress, $0.count, 0) }
    guard count >= 0 else { throw .unreadable(name: name, errno: errno) }
    return (Array(bytes.prefix(count)), Version(status))
  }

  // MARK: Names

  private func missing(_ name: String) -> ZoneFault {
    let names = names()
    guard !names.isEmpty else { return .notInstalled(folder: path) }
    return .unknown(name: name, nearest: Self.nearest(to: name, among: names))
  }

  /// Every name there is, sorted; `posix/` and `right/`, which repeat them, left out.
  package func names() -> [String] {
    var names: [String] = []
    collectNames(in: "", depth: 0, into: &names)
    return names.sorted()
  }

  /// Deep enough for `America/Argentina/Buenos_Aires`.
  private static let deepestFolder = 3

  private func collectNames(in folder: String, depth: Int, into names: inout [String]) {
    guard depth < Self.deepestFolder, let stream = opendir("\(path)/\(folder)") else { return }
    defer { closedir(stream) }
    while let entry = readdir(stream) {
      let name = withUnsafePointer(to: &entry.pointee.d_name) {
        $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
      }
      guard Self.isName(name), depth > 0 || !["posix", "right", "posixrules", "localtime"].contains(name) else {
        continue
      }
      var status = stat()
      guard stat("\(path)/\(folder)\(name)", &status) == 0 else { continue }
      switch status.st_mode & S_IFMT {
      case S_IFDIR: collectNames(in: "\(folder)\(name)/", depth: depth + 1, into: &names)
      case S_IFREG where name != "leapseconds": names.append(folder + name)
      default: break
      }
    }
  }

  /// The name that needs the fewest changes; a city without its region finds its zone.
  private static func nearest(to name: String, among names: [String]) -> String? {
    let wanted = name.lowercased()
    let city = wanted.split(separator: "/").last.map(String.init) ?? wanted
    if let exact = names.first(where: { $0.lowercased() == wanted }) { return exact }
    if let sameCity = names.first(where: { $0.lowercased().hasSuffix("/\(city)") }) { return sameCity }
    return NearestName.of(wanted, among: names) { $0.lowercased() }
  }
}
