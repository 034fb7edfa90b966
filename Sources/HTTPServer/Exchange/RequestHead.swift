import CMicrohttpd
import Glibc

/// What libmicrohttpd has parsed of a request's head, as ours.
enum RequestHead {
  /// How the body's length is told.
  enum Framing {
    case none
    case length(UInt64)
    case chunked
  }

  /// The header fields in order; bytes that aren't UTF-8 become U+FFFD.
  static func fields(of connection: OpaquePointer) -> HTTPFields {
    var fields = HTTPFields()
    withUnsafeMutablePointer(to: &fields) { fields in
      _ = MHD_get_connection_values_n(
        connection, .HEADER_KIND,
        { context, _, name, nameSize, value, valueSize in
          let fields = context?.assumingMemoryBound(to: HTTPFields.self)
          fields?.pointee.append(RequestHead.text(name, nameSize), RequestHead.text(value, valueSize))
          return .YES
        }, fields)
    }
    return fields
  }

  private static func text(_ start: UnsafePointer<CChar>?, _ count: Int) -> String {
    String(decoding: UnsafeRawBufferPointer(start: start, count: start == nil ? 0 : count), as: UTF8.self)
  }

  /// Refuses field names that aren't tokens. A blank before the colon above all: readers differ in whether such a
  /// field counts (RFC 9112, 5.1).
  static func checkNames(_ fields: HTTPFields) throws(HTTPFault) {
    for field in fields.all where field.name.isEmpty || !field.name.utf8.allSatisfy(isTokenByte) {
      throw .badFraming("the name of a header field holds a blank or another byte that isn't allowed there")
    }
  }

  /// RFC 9110, 5.6.2.
  private static func isTokenByte(_ byte: UInt8) -> Bool {
    switch byte {
    case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"): true
    default: isDigit(byte) || tokenMarks.contains(byte)
    }
  }

  private static let tokenMarks = Set("!#$%&'*+-.^_`|~".utf8)

  /// How long the body is. Refuses what two readers could understand in two ways (RFC 9112, 6.3).
  static func framing(_ fields: HTTPFields, version: String) throws(HTTPFault) -> Framing {
    let codings = fields.values("Transfer-Encoding")
    let lengths = fields.values("Content-Length")
    if let coding = codings.first {
      guard lengths.isEmpty else { throw .badFraming("both Transfer-Encoding and Content-Length are given") }
      guard codings.count == 1, coding.lowercased() == "chunked" else {
        throw .badFraming("the only transfer coding understood is chunked")
      }
      guard version != "HTTP/1.0" else { throw .badFraming("Transfer-Encoding needs HTTP/1.1") }
      return .chunked
    }
    guard let first = lengths.first else { return .none }
    guard lengths.count == 1, let length = UInt64(first), first.utf8.first.map(isDigit) == true else {
      throw .badFraming("Content-Length must be given once, as a number")
    }
    return length == 0 ? .none : .length(length)
  }

  private static func isDigit(_ byte: UInt8) -> Bool {
    byte >= UInt8(ascii: "0") && byte <= UInt8(ascii: "9")
  }

  /// Path and query as sent. Only visible ASCII without `#`, a path or `*`: the absolute form isn't served, as its
  /// host would pass by the check of the Host field.
  static func split(_ target: [UInt8]) throws(HTTPFault) -> (path: String, query: String?) {
    guard let first = target.first else { throw .malformedTarget("the request target is missing") }
    guard target.allSatisfy({ $0 > 0x20 && $0 < 0x7F && $0 != UInt8(ascii: "#") }) else {
      throw .malformedTarget("the request target holds bytes that must be percent-encoded")
    }
    guard first == UInt8(ascii: "/") || target == [UInt8(ascii: "*")] else {
      throw .malformedTarget("the request target must begin with /")
    }
    guard let mark = target.firstIndex(of: UInt8(ascii: "?")) else {
      return (String(decoding: target, as: UTF8.self), nil)
    }
    return (String(decoding: target[..<mark], as: UTF8.self), String(decoding: target[(mark + 1)...], as: UTF8.self))
  }

  /// Where the connection comes from.
  static func peer(of connection: OpaquePointer) -> HTTPPeer {
    guard let address = cmhd_client_address(connection) else { return .unixSocket }
    switch Int32(address.pointee.sa_family) {
    case AF_INET:
      let four = UnsafeRawPointer(address).loadUnaligned(as: sockaddr_in.self).sin_addr
      let bytes = withUnsafeBytes(of: four) { Array($0) }
      return bytes[0] == 127 ? .loopback : .network(address: bytes.map(String.init).joined(separator: "."))
    case AF_INET6:
      let six = UnsafeRawPointer(address).loadUnaligned(as: sockaddr_in6.self).sin6_addr
      let bytes = withUnsafeBytes(of: six) { Array($0) }
      return bytes == [UInt8](repeating: 0, count: 15) + [1] ? .loopback : .network(address: numeric(six))
    default:
      return .unixSocket
    }
  }

  private static func numeric(_ address: in6_addr) -> String {
    var address = address
    return withUnsafeTemporaryAllocation(of: CChar.self, capacity: Int(INET6_ADDRSTRLEN)) { buffer in
      guard let start = buffer.baseAddress,
        inet_ntop(AF_INET6, &address, start, socklen_t(INET6_ADDRSTRLEN)) != nil
      else { return "" }
      return String(cString: start)
    }
  }
}
