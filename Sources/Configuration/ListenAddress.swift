import Bytes

/// Where the API is served.
package enum ListenAddress: Hashable, Sendable {
  /// An IP address (without brackets) or "localhost"; port 0 takes a free one.
  case tcp(host: String, port: UInt16)
  /// An absolute path.
  case unix(path: String)

  /// Whether only this host can reach it.
  package var isLocal: Bool {
    switch self {
    case .unix: true
    case .tcp(let host, _): NetworkHost(withoutBrackets: host)?.isLoopback == true
    }
  }

  /// HOST:PORT; nil if `text` isn't that, or if the host is neither an IP address nor localhost: a name may mean
  /// another address tomorrow.
  init?(tcp text: String) {
    guard let parsed = HostAndPort(text), let port = parsed.port, parsed.host.isFixed else { return nil }
    self = .tcp(host: parsed.host.text, port: port)
  }
}

extension ListenAddress: CustomStringConvertible {
  /// As it stands in the file.
  package var description: String {
    switch self {
    case .tcp(let host, let port): HostAndPort.text(host: host, port: port)
    case .unix(let path): "unix:\(path)"
    }
  }
}
