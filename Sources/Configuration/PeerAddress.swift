import Glibc

/// A host, a port of it, or a unix socket that NBD sources and targets may name.
enum PeerAddress: Hashable {
  /// Port nil: every port. The host is an IPv6 address in brackets, an IPv4 address, or a name in lower case.
  case host(String, port: UInt16?)
  /// An absolute path.
  case unix(path: String)

  /// Bytes that a host name may have (RFC 1035, 2.3.4).
  static let maximumNameLength = 253

  /// HOST, HOST:PORT, [IPv6] or [IPv6]:PORT; nil if `text` is none of these.
  init?(host text: String) {
    let end = text.first == "[" ? text.firstIndex(of: "]").map(text.index(after:)) : text.firstIndex(of: ":")
    let host = text[..<(end ?? text.endIndex)]
    guard let canonical = Self.canonical(host) else { return nil }
    guard let end, end < text.endIndex else {
      self = .host(canonical, port: nil)
      return
    }
    let digits = text[end...].dropFirst()
    guard text[end] == ":", digits.utf8.allSatisfy({ (0x30...0x39).contains($0) }), let port = UInt16(digits), port > 0
    else { return nil }
    self = .host(canonical, port: port)
  }

  /// One text for all ways of writing the same address.
  private static func canonical(_ host: Substring) -> String? {
    if host.hasPrefix("["), host.hasSuffix("]") {
      return numeric(String(host.dropFirst().dropLast()), AF_INET6).map { "[\($0)]" }
    }
    if let address = numeric(String(host), AF_INET) { return address }
    let name = host.lowercased()
    let isName = name.utf8.allSatisfy { byte in
      (0x61...0x7A).contains(byte) || (0x30...0x39).contains(byte) || "-._".utf8.contains(byte)
    }
    // What ends in a number and is no address would be taken for one by some resolvers: 127.1, 10.0.0.300.
    let lastLabel = name.split(separator: ".", omittingEmptySubsequences: false).last ?? ""
    guard isName, !lastLabel.allSatisfy(\.isNumber), name.utf8.count <= maximumNameLength else { return nil }
    return name
  }

  private static func numeric(_ text: String, _ family: Int32) -> String? {
    var bytes = [UInt8](repeating: 0, count: 16)
    guard inet_pton(family, text, &bytes) == 1 else { return nil }
    var buffer = [CChar](repeating: 0, count: Int(INET6_ADDRSTRLEN))
    guard let written = inet_ntop(family, bytes, &buffer, socklen_t(buffer.count)) else { return nil }
    return String(cString: written)
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
