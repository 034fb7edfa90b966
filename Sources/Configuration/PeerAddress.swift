import Bytes

/// A host, a port of it, or a unix socket that NBD sources and targets may name.
enum PeerAddress: Hashable {
  /// Port nil: every port. The host is an IPv6 address in brackets, an IPv4 address, or a name in lower case.
  case host(String, port: UInt16?)
  /// An absolute path.
  case unix(path: String)

  /// HOST, HOST:PORT, [IPv6] or [IPv6]:PORT; nil if `text` is none of these.
  init?(host text: String) {
    guard let parsed = HostAndPort(text), parsed.port != 0 else { return nil }
    self = .host(parsed.host.description, port: parsed.port)
  }
}

extension PeerAddress: CustomStringConvertible {
  var description: String {
    switch self {
    case .host(let host, nil): host
    case .host(let host, let port?): "\(host):\(port)"
    case .unix(let path): "unix:\(path)"
    }
  }
}
