import Model

/// How exports are served.
package struct ExportConfiguration: Hashable, Sendable {
  /// Paths of PEM files: a certificate of ours with its key, and the authority that must have signed the clients' ones.
  package struct Certificate: Hashable, Sendable {
    package var certificate: String
    package var key: String
    package var clientAuthority: String

    package init(certificate: String, key: String, clientAuthority: String) {
      self.certificate = certificate
      self.key = key
      self.clientAuthority = clientAuthority
    }
  }

  /// Unix sockets are made beneath this; absolute, and made if it isn't there. Nil: there can be none.
  package var socketFolder: String?
  /// The group that may connect to unix sockets beside our own user; nil: our own group.
  package var socketGroup: String?
  /// For addresses with x509.
  package var certificate: Certificate?
  /// For addresses with psk: the path of a file with lines `identity:hex`, as psktool writes it.
  package var preSharedKeys: String?
  /// At one time, of all exports together.
  package var connectionCount: Int
  /// Where the API listens, or is about to: no export is served there.
  package var apiAddresses: [ExportAddress]

  package static let defaultConnectionCount = 100

  package init(
    socketFolder: String? = nil, socketGroup: String? = nil, certificate: Certificate? = nil,
    preSharedKeys: String? = nil, connectionCount: Int = ExportConfiguration.defaultConnectionCount,
    apiAddresses: [ExportAddress] = []
  ) {
    self.socketFolder = socketFolder
    self.socketGroup = socketGroup
    self.certificate = certificate
    self.preSharedKeys = preSharedKeys
    self.connectionCount = connectionCount
    self.apiAddresses = apiAddresses
  }
}
