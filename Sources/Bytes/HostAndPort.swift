import Glibc

/// A host as URIs, headers and the configuration name it (RFC 3986, section 3.2.2).
///
/// One value stands for all ways of writing the same host: names are in lower case, addresses as `inet_ntop` writes
/// them.
package enum NetworkHost: Hashable, Sendable {
  case name(String)
  case ipv4(String)
  case ipv6(String)

  /// Bytes that a host name may have (RFC 1035, section 2.3.4).
  package static let longestName = 253

  /// An IPv6 address in brackets, an IPv4 address, or a name; nil if `text` is none of these.
  package init?(_ text: some StringProtocol) {
    if text.hasPrefix("[") {
      guard text.hasSuffix("]"), let address = Self.address(text.dropFirst().dropLast(), AF_INET6) else { return nil }
      self = .ipv6(address)
    } else if let address = Self.address(text, AF_INET) {
      self = .ipv4(address)
    } else {
      guard let name = Self.name(text) else { return nil }
      self = .name(name)
    }
  }

  /// The same, an IPv6 address without brackets.
  package init?(withoutBrackets text: String) {
    guard text.contains(":") else {
      self.init(text)
      return
    }
    guard let address = Self.address(text, AF_INET6) else { return nil }
    self = .ipv6(address)
  }

  private static func name(_ text: some StringProtocol) -> String? {
    let name = text.lowercased()
    let isName = name.utf8.allSatisfy { byte in
      (0x61...0x7A).contains(byte) || (0x30...0x39).contains(byte) || "-._".utf8.contains(byte)
    }
    // What ends in a number and is no address would be taken for one by some resolvers: 127.1, 10.0.0.300.
    let lastLabel = name.split(separator: ".", omittingEmptySubsequences: false).last ?? ""
    guard isName, !lastLabel.allSatisfy(\.isNumber), name.utf8.count <= longestName else { return nil }
    return name
  }

  private static func address(_ text: some StringProtocol, _ family: Int32) -> String? {
    var bytes = [UInt8](repeating: 0, count: 16)
    guard inet_pton(family, String(text), &bytes) == 1 else { return nil }
    var buffer = [CChar](repeating: 0, count: Int(INET6_ADDRSTRLEN))
    return inet_ntop(family, bytes, &buffer, socklen_t(buffer.count)).map { String(cString: $0) }
  }

  /// Without brackets.
  package var text: String {
    switch self {
    case .name(let text), .ipv4(let text), .ipv6(let text): text
    }
  }

  /// Whether no resolver decides what it means: an address, or `localhost`.
  package var isFixed: Bool { if case .name(let name) = self { name == "localhost" } else { true } }

  /// Whether only this machine is meant.
  package var isLoopback: Bool {
    switch self {
    case .name(let name): name == "localhost"
    case .ipv4(let address): address.hasPrefix("127.")
    case .ipv6(let address): address == "::1"
    }
  }
}

extension NetworkHost: CustomStringConvertible {
  /// An IPv6 address in brackets.
  package var description: String { if case .ipv6(let address) = self { "[\(address)]" } else { text } }
}

/// `HOST`, `HOST:PORT`, `[IPv6]` or `[IPv6]:PORT` (RFC 3986, sections 3.2.2 and 3.2.3).
package struct HostAndPort: Hashable, Sendable {
  package let host: NetworkHost
  /// Nil if the text names none.
  package let port: UInt16?

  package init(_ host: NetworkHost, port: UInt16?) {
    self.host = host
    self.port = port
  }

  /// Nil if `text` is none of the forms above, or if its port isn't a decimal number below 65536.
  package init?(_ text: some StringProtocol) {
    let end = text.first == "[" ? text.firstIndex(of: "]").map(text.index(after:)) : text.firstIndex(of: ":")
    guard let host = NetworkHost(text[..<(end ?? text.endIndex)]) else { return nil }
    guard let end, end < text.endIndex else {
      self.init(host, port: nil)
      return
    }
    let digits = text[end...].dropFirst()
    guard text[end] == ":", digits.utf8.allSatisfy({ (0x30...0x39).contains($0) }), let port = UInt16(digits) else {
      return nil
    }
    self.init(host, port: port)
  }
}

extension HostAndPort: CustomStringConvertible {
  package var description: String { port.map { "\(host):\($0)" } ?? "\(host)" }

  /// HOST:PORT of a host without brackets, which an IPv6 address gets.
  package static func text(host: String, port: UInt16) -> String {
    host.utf8.contains(UInt8(ascii: ":")) ? "[\(host)]:\(port)" : "\(host):\(port)"
  }
}
