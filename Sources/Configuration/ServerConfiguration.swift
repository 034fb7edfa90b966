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

  package struct DeclaredRepository: Hashable, Sendable {
    package var name: ResourceName
    package var kind: Repository.Kind
    package var path: String
  }

  package struct DeclaredImage: Hashable, Sendable {
    package var name: ResourceName
    package var source: ImageSource
    package var format: DiskFormat
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
  package var imageFolders: [String]
  package var imageDevices: [String]
  package var repositoryFolders: [String]
  package var socketFolder: String
  package var repositories: [DeclaredRepository]
  package var images: [DeclaredImage]
  package var nbdPeers: [String]
  package var ioBackend: IOBackendChoice
  package var compressionLevel: Int
  package var jobsAtOnce: Int
  package var eventStreams: Int
  package var eventsKept: Int
  package var logLevel: LogLevel

  /// Items that a list may have.
  package static let maximumListLength = 10_000
}
