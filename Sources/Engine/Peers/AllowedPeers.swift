import Bytes
import EventLoops
import Glibc
import Model
import NBD

/// The NBD servers that may be connected to: hosts, with one port or with all, and unix sockets.
///
/// Hosts are compared by name, or as addresses, however these are written; sockets by their paths with links resolved.
package struct AllowedPeers: Sendable {
  private enum Pattern: Hashable {
    case host(NetworkHost, port: UInt16?)
    case unix(path: String)
  }

  private let patterns: [Pattern]

  /// - Parameter texts: `HOST`, `HOST:PORT` or `unix:PATH` each, IPv6 addresses in brackets.
  package init(_ texts: [String]) {
    patterns = texts.map { text in
      if text.hasPrefix("unix:") { return .unix(path: String(text.dropFirst(5))) }
      let peer = HostAndPort(text)
      return .host(peer?.host ?? .name(text), port: peer?.port)
    }
  }

  /// The URI to connect to: the same, with the links in a socket's path resolved. Blocks.
  /// - Throws: `peerNotAllowed`.
  package func resolve(_ uri: NBDURI) throws(DomainError) -> NBDURI {
    switch uri.place {
    case .tcp(let host, let port):
      let host = NetworkHost(withoutBrackets: host) ?? .name(host)
      if patterns.contains(.host(host, port: nil)) || patterns.contains(.host(host, port: port)) { return uri }
    case .unix(let path):
      let resolved = Self.resolved(path)
      for case .unix(let allowed) in patterns where Self.resolved(allowed) == resolved {
        return NBDURI(.unix(path: resolved), exportName: uri.exportName, usesTLS: uri.usesTLS)
      }
    }
    throw DomainError(
      .peerNotAllowed, "\(uri) is on none of the allowed NBD servers",
      remedy: "list its host or socket under nbdPeers in the configuration")
  }

  /// The path with all links resolved; of a socket that isn't there, its folder's.
  private static func resolved(_ path: String) -> String {
    if let real = realPath(path) { return real }
    guard let slash = path.lastIndex(of: "/"),
      let folder = realPath(slash == path.startIndex ? "/" : String(path[..<slash]))
    else { return path }
    return (folder == "/" ? "" : folder) + path[slash...]
  }

  private static func realPath(_ path: String) -> String? {
    guard let real = realpath(path, nil) else { return nil }
    defer { free(real) }
    return String(cString: real)
  }
}
