import Glibc

/// Where the API is served.
package enum ListenAddress: Hashable, Sendable {
  /// An IP address (without brackets) or "localhost"; port 0 takes a free one.
  case tcp(host: String, port: UInt16)
  /// An absolute path.
  case unix(path: String)

  /// Bytes that the path of a unix socket may have (sun_path, less its end).
  package static let maximumSocketPathLength = 107

  /// Whether only this host can reach it.
  package var isLocal: Bool {
    switch self {
    case .unix: true
    case .tcp("localhost", _): true
    case .tcp(let host, _):
      switch IPAddress(host) {
      case .v4(let bytes): bytes[0] == 127
      case .v6(let bytes): bytes == Array(repeating: 0, count: 15) + [1]
      case nil: false
      }
    }
  }

  /// HOST:PORT; nil if `text` isn't that, or if the host is neither an IP address nor localhost: a name may mean
  /// another address tomorrow.
  init?(tcp text: String) {
    guard let colon = text.lastIndex(of: ":"), let port = UInt16(text[text.index(after: colon)...]) else { return nil }
    var host = String(text[..<colon])
    if host.hasPrefix("["), host.hasSuffix("]") {
      host = String(host.dropFirst().dropLast())
      guard case .v6 = IPAddress(host) else { return nil }
    } else {
      host = host.lowercased()
      guard host == "localhost" || IPAddress(host).map({ if case .v4 = $0 { true } else { false } }) == true else {
        return nil
      }
    }
    self = .tcp(host: host, port: port)
  }
}

extension ListenAddress: CustomStringConvertible {
  /// As it stands in the file.
  package var description: String {
    switch self {
    case .tcp(let host, let port): host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)"
    case .unix(let path): "unix:\(path)"
    }
  }
}

/// The bytes of an address, in network order.
private enum IPAddress {
  case v4([UInt8])
  case v6([UInt8])

  init?(_ text: String) {
    var bytes = [UInt8](repeating: 0, count: 16)
    if inet_pton(AF_INET, text, &bytes) == 1 {
      self = .v4(Array(bytes[..<4]))
    } else if inet_pton(AF_INET6, text, &bytes) == 1 {
      self = .v6(bytes)
    } else {
      return nil
    }
  }
}
