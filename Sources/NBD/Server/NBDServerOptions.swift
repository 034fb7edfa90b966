import EventLoops

/// Bounds of a server and of each of its connections.
package struct NBDServerOptions: Hashable, Sendable {
  /// Connections over all listeners; a further one is closed at once.
  package var maximumConnectionCount = 100
  /// From accepting a connection to the beginning of transmission, TLS included.
  package var handshakeTimeout = Duration.seconds(10)
  /// Requests of one connection that wait for the device at once; further ones stay in the socket.
  package var maximumRequestCount = 128
  /// Payload bytes of one connection that wait to be written; one request may always, however long it is.
  package var maximumWriteByteCount = 32 << 20
  /// Bytes of one connection that are being read by waiting for the device.
  package var maximumReadByteCount = 4 << 20
  /// How long requests in flight may take to end when an export is taken away or the server ends.
  package var removalGrace = Duration.seconds(5)

  package init() {}
}

/// Whether and how clients of a listener use TLS.
package enum ListenerSecurity: Sendable {
  case plain
  /// Clients may use TLS; exports say whether they insist.
  case optional(TLSServerCredentials)
  /// Nothing is told or done without TLS.
  case required(TLSServerCredentials)

  var policy: TLSPolicy {
    switch self {
    case .plain: .none
    case .optional: .optional
    case .required: .required
    }
  }

  var credentials: TLSServerCredentials? {
    switch self {
    case .plain: nil
    case .optional(let credentials), .required(let credentials): credentials
    }
  }
}

/// Who may connect to a unix socket.
package struct SocketFileAccess: Hashable, Sendable {
  /// The file's mode bits.
  package var mode: UInt32
  /// The group that gets it; nil leaves the process's own.
  package var group: UInt32?

  package init(mode: UInt32 = 0o660, group: UInt32? = nil) {
    self.mode = mode
    self.group = group
  }
}
