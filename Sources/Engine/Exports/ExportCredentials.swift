import Model
import NBD

/// What clients of addresses with TLS are met with.
struct ExportCredentials: Sendable {
  private let certificate: TLSServerCredentials?
  private let preSharedKeys: TLSServerCredentials?

  /// Loads them; blocks.
  /// - Throws: `tlsUnavailable`, with the file that can't be used.
  init(_ configuration: ExportConfiguration) throws(DomainError) {
    do throws(TLSError) {
      certificate = try configuration.certificate.map { (files) throws(TLSError) in
        try TLSServerCredentials(
          certificateFile: files.certificate, keyFile: files.key, clientAuthorityFile: files.clientAuthority)
      }
      preSharedKeys = try configuration.preSharedKeys.map { (file) throws(TLSError) in
        try TLSServerCredentials(preSharedKeyFile: file)
      }
    } catch {
      throw DomainError(
        .tlsUnavailable, "what exports with TLS need can't be loaded: \(error)",
        remedy: "check the files under exportTLS in the configuration")
    }
  }

  /// How a listener treats its clients.
  /// - Throws: `tlsUnavailable` where the credentials aren't configured.
  func security(_ tls: ExportTLS?) throws(DomainError) -> ListenerSecurity {
    switch tls {
    case nil: return .plain
    case .x509:
      guard let certificate else {
        throw Self.unavailable("x509", "state certificate, key and clientAuthority under exportTLS")
      }
      return .required(certificate)
    case .psk:
      guard let preSharedKeys else { throw Self.unavailable("psk", "state preSharedKeys under exportTLS") }
      return .required(preSharedKeys)
    }
  }

  private static func unavailable(_ kind: String, _ remedy: String) -> DomainError {
    DomainError(
      .tlsUnavailable, "nothing is configured for exports with TLS by \(kind)",
      remedy: "\(remedy) in the configuration")
  }
}
