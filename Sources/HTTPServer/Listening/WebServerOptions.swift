import Bytes

/// The bounds and times of a server.
package struct WebServerOptions: Sendable {
  /// Threads of libmicrohttpd per address.
  package var threads = 2
  /// Connections open at a time over all addresses, half of them by TCP and half by unix sockets; more wait in the
  /// kernel's backlog.
  package var connectionLimit = 1024
  /// What the head of a connection's first request may take.
  package var headTime: Duration = .seconds(10)
  /// A connection on which nothing moves for so long, or that has no further request for so long, is closed, unless
  /// a handler or an event stream has it.
  package var connectionTimeout: Duration = .seconds(30)
  /// Memory of a connection for request line, header fields and what is read at a time; a larger head is
  /// answered 414 or 431 by libmicrohttpd.
  package var headerMemoryBytes = 32 << 10
  /// With this much of a body unread by its handler, the client isn't read from.
  package var uploadBufferBytes = 256 << 10
  /// How much of an unwanted body is read so that the client gets its answer; beyond it the connection breaks.
  package var unreadBodyLimit = 8 << 20
  /// Event streams open at a time.
  package var eventStreamLimit = 512
  /// Every event stream that has nothing else to send gets a comment this often.
  package var heartbeat: Duration = .seconds(15)
  /// How long a stopping server lets the last answers flow out after the grace.
  package var flushTime: Duration = .seconds(1)

  package init() {}

  /// Connections of all TCP addresses together, and of all unix sockets together.
  var listenerLimit: Int { max(connectionLimit / 2, 1) }
  /// Connections of one client address; those beyond are closed at once.
  var addressLimit: Int { max(listenerLimit / 2, 1) }
}

/// A certificate chain and its key, both PEM.
package struct TLSIdentity: Sendable {
  package let certificatePEM: String
  package let keyPEM: String

  package init(certificatePEM: String, keyPEM: String) {
    self.certificatePEM = certificatePEM
    self.keyPEM = keyPEM
  }
}

/// Where a server listens.
package enum HTTPListenAddress: Sendable, Equatable, CustomStringConvertible {
  /// A numeric address, IPv4 or IPv6; port 0 takes any that is free.
  case tcp(host: String, port: UInt16)
  /// A socket file with this mode.
  case unix(path: String, mode: UInt32 = 0o600)

  package var description: String {
    switch self {
    case .tcp(let host, let port): HostAndPort.text(host: host, port: port)
    case .unix(let path, _): "unix:\(path)"
    }
  }
}

/// Why a server can't listen at an address, and what to do about it.
package struct HTTPListenError: Error, Sendable, CustomStringConvertible {
  package let address: HTTPListenAddress
  package let reason: String

  package var description: String { "can't listen at \(address): \(reason)" }
}
