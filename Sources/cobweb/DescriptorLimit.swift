import Glibc

/// How many files this process may have open, and how they are shared out: jobs, exports and the catalog come first,
/// HTTP connections have what is left. Connections wait in the kernel's backlog; a job or a guest whose file can't be
/// opened fails.
struct DescriptorLimit {
  let count: Int

  /// More than this is never needed.
  private static let wanted: rlim_t = 65_536
  /// For the catalog, jobs with their chains of files, attached images, event loops and logs.
  private static let reserve = 256
  /// Of each NBD connection: its socket, and the ends of its pipes.
  private static let perExportConnection = 3
  private static let fewestHTTPConnections = 16
  private static let mostHTTPConnections = 1024

  /// Raises the soft limit as far as the hard one allows.
  static func raise() -> DescriptorLimit {
    var limit = rlimit()
    guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else {
      return DescriptorLimit(count: 1024)
    }
    let target = min(limit.rlim_max, wanted)
    if limit.rlim_cur < target {
      let before = limit.rlim_cur
      limit.rlim_cur = target
      if setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) != 0 { limit.rlim_cur = before }
    }
    return DescriptorLimit(count: Int(clamping: limit.rlim_cur))
  }

  /// HTTP connections beside so many of exports.
  func httpConnections(besideExports exports: Int) -> Int {
    let rest = count - Self.reserve - exports * Self.perExportConnection
    return min(max(rest, Self.fewestHTTPConnections), Self.mostHTTPConnections)
  }
}
