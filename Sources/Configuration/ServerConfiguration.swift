import Model

/// What the server runs by: checked, with every path absolute.
package struct ServerConfiguration: Hashable, Sendable {
  package enum IOBackendChoice: String, Sendable, CaseIterable {
    case auto
    case ioUring = "io_uring"
    case epoll
  }

  package enum LogLevel: String, Sendable, CaseIterable {
    case trace, debug, info, notice, warning, error, critical
  }

  /// Whether requests need a token.
  package enum Tokens: String, Sendable, CaseIterable { case off }

  /// Paths of PEM files.
  package struct TLSFiles: Hashable, Sendable {
    package var certificate: String
    package var key: String
  }

  /// Paths of what exports with TLS need.
  package struct ExportTLSFiles: Hashable, Sendable {
    /// With it, a key and an authority: x509 can be offered.
    package var certificate: String?
    package var key: String?
    package var clientAuthority: String?
    /// Lines `identity:hex`. With it, psk can be offered.
    package var preSharedKeys: String?
  }

  /// Paths of what `nbds` peers are met with: certificates or a key.
  package struct PeerTLSFiles: Hashable, Sendable {
    package var authority: String?
    /// Has a key.
    package var certificate: String?
    package var key: String?
    /// One line `identity:hex`; without certificates.
    package var preSharedKey: String?
  }

  package struct DeclaredRepository: Hashable, Sendable {
    package var name: ResourceName
    package var kind: Repository.Kind
    package var path: String
  }

  package struct DeclaredImage: Hashable, Sendable {
    package var name: ResourceName
    package var source: ImageSource
    package var format: DiskFormat
    package var isExclusive: Bool
    package var labels: [String: String]
  }

  /// Never empty; each is local.
  package var listen: [ListenAddress]
  package var tls: TLSFiles?
  /// Without ports.
  package var hosts: [String]
  /// Permission bits.
  package var socketMode: UInt32
  package var tokens: Tokens
  package var stateFolder: String
  /// In memory, for what outlives the server; shared with others.
  package var trackingFolder: String
  /// Bytes of it.
  package var trackingMemory: Int
  package var imageFolders: [String]
  package var imageDevices: [String]
  package var repositoryFolders: [String]
  /// For what guests change while their images are backed up; made where it isn't there.
  package var fleecingFolder: String
  /// Bytes of it.
  package var fleecingSize: Int
  /// Bytes of memory for the same.
  package var copyBuffer: Int
  package var guestWriteTimeout: Duration
  package var socketFolder: String
  /// There is such a group on this host.
  package var socketGroup: String?
  package var repositories: [DeclaredRepository]
  package var images: [DeclaredImage]
  package var exportTLS: ExportTLSFiles?
  /// At one time, of all exports together.
  package var exportConnections: Int
  /// Each `HOST` (any port), `HOST:PORT` or `unix:PATH`: host names in lower case, numeric addresses as inet_ntop
  /// writes them, IPv6 in brackets, paths absolute.
  package var nbdPeers: [String]
  package var peerTLS: PeerTLSFiles?
  package var ioBackend: IOBackendChoice
  package var compressionLevel: Int
  package var chainLength: Int
  package var sampledCheck: Double
  /// This host has it.
  package var timeZone: String?
  package var jobsAtOnce: Int
  package var eventStreams: Int
  package var eventsKept: Int
  package var logLevel: LogLevel

  /// Items that a list may have.
  package static let maximumListLength = 10_000
}
