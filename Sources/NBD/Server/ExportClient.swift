import Logging

/// A client of an export, for operators.
package struct ExportClient: Hashable, Sendable {
  /// Where it is: an address and port, or a process.
  package let place: String
  /// Who it proved to be; nil without TLS, or where the server asks for no proof.
  package let identity: PeerIdentity?
  package let usesTLS: Bool

  var metadata: Logger.Metadata {
    var metadata: Logger.Metadata = ["client": "\(place)", "tls": "\(usesTLS)"]
    if let identity { metadata["identity"] = "\(identity)" }
    return metadata
  }
}
