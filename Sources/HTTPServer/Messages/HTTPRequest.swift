/// Where a request came from.
package enum HTTPPeer: Sendable, Equatable {
  /// TCP from 127.0.0.0/8 or ::1.
  case loopback
  /// TCP from elsewhere; the numeric address without the port.
  case network(address: String)
  case unixSocket
}

/// One request: its head, complete, and its body as it comes in.
package struct HTTPRequest: Sendable {
  /// 32 lowercase hexadecimal digits, unique to this request.
  package let id: String
  /// As sent: methods are case-sensitive (RFC 9110, 9.1).
  package let method: String
  /// The path exactly as sent: `%2F` and `%00` stand as they came. Visible ASCII; begins with `/` or is `*`.
  package let path: String
  /// What follows the first `?`, exactly as sent; `nil` without a `?`.
  package let query: String?
  /// `HTTP/1.1` or `HTTP/1.0`.
  package let version: String
  package let headers: HTTPFields
  package let peer: HTTPPeer
  /// The connection is encrypted.
  package let isSecure: Bool
  /// The head announces a body that isn't empty.
  package let hasBody: Bool
  package let body: HTTPBody

  package init(
    id: String = RequestIdentity.next(), method: String, path: String, query: String? = nil,
    version: String = "HTTP/1.1", headers: HTTPFields = [:], peer: HTTPPeer = .loopback, isSecure: Bool = false,
    hasBody: Bool = false, body: HTTPBody = HTTPBody(bytes: [])
  ) {
    self.id = id
    self.method = method
    self.path = path
    self.query = query
    self.version = version
    self.headers = headers
    self.peer = peer
    self.isSecure = isSecure
    self.hasBody = hasBody
    self.body = body
  }

  /// The query's parameters as sent, undecoded, in order, repeats kept; the value is `nil` where there was no `=`.
  package var queryPairs: [(name: Substring, value: Substring?)] {
    guard let query else { return [] }
    return query.split(separator: "&").map { pair in
      guard let equals = pair.firstIndex(of: "=") else { return (name: pair, value: nil) }
      return (name: pair[..<equals], value: pair[pair.index(after: equals)...])
    }
  }
}
