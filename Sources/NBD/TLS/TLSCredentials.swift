import CGnuTLS

/// What one side of TLS proves itself and judges others by. Immutable once made, so sessions on all loops share it.
final class TLSCredentials: @unchecked Sendable {
  // Safe to share: GnuTLS only reads credentials that sessions use, and they aren't changed after `init`.

  enum Kind: Sendable { case certificate, serverKeys, clientKey }

  let kind: Kind
  private let certificate: gnutls_certificate_credentials_t?
  private let serverKeys: gnutls_psk_server_credentials_t?
  private let clientKey: gnutls_psk_client_credentials_t?

  /// Loads an x509 identity and the authorities to judge the other side by, each from a PEM file if given.
  init(certificateFile: String?, keyFile: String?, authorityFile: String?, trustsSystem: Bool) throws(TLSError) {
    var made: gnutls_certificate_credentials_t?
    try TLSError.check(gnutls_certificate_allocate_credentials(&made), "TLS")
    kind = .certificate
    certificate = made
    serverKeys = nil
    clientKey = nil
    if let certificateFile, let keyFile {
      try TLSError.check(
        gnutls_certificate_set_x509_key_file(made, certificateFile, keyFile, GNUTLS_X509_FMT_PEM),
        "certificate \(certificateFile) with key \(keyFile)")
    }
    if let authorityFile {
      let count = gnutls_certificate_set_x509_trust_file(made, authorityFile, GNUTLS_X509_FMT_PEM)
      try TLSError.check(count, "authorities \(authorityFile)")
      if count == 0 { throw TLSError("authorities \(authorityFile): no certificate in it") }
    } else if trustsSystem {
      try TLSError.check(gnutls_certificate_set_x509_system_trust(made), "the system's authorities")
    }
  }

  /// Keys of clients: lines `identity:hex`, as psktool writes them.
  init(serverKeyFile: String) throws(TLSError) {
    var made: gnutls_psk_server_credentials_t?
    try TLSError.check(gnutls_psk_allocate_server_credentials(&made), "TLS")
    kind = .serverKeys
    certificate = nil
    serverKeys = made
    clientKey = nil
    try TLSError.check(gnutls_psk_set_server_credentials_file(made, serverKeyFile), "keys \(serverKeyFile)")
  }

  /// One client's key, in hexadecimal.
  init(identity: String, hexKey: String) throws(TLSError) {
    var made: gnutls_psk_client_credentials_t?
    try TLSError.check(gnutls_psk_allocate_client_credentials(&made), "TLS")
    kind = .clientKey
    certificate = nil
    serverKeys = nil
    clientKey = made
    let code = Array(hexKey.utf8).withUnsafeBufferPointer { bytes in
      var key = gnutls_datum_t(
        data: UnsafeMutablePointer(mutating: bytes.baseAddress), size: UInt32(bytes.count))
      return gnutls_psk_set_client_credentials(made, identity, &key, GNUTLS_PSK_KEY_HEX)
    }
    try TLSError.check(code, "the key of “\(identity)”")
  }

  deinit {
    if let certificate { gnutls_certificate_free_credentials(certificate) }
    if let serverKeys { gnutls_psk_free_server_credentials(serverKeys) }
    if let clientKey { gnutls_psk_free_client_credentials(clientKey) }
  }

  /// Has the session use them, with TLS 1.2 and 1.3 only (proto.md, “TLS versions”).
  func apply(to session: gnutls_session_t?) throws(TLSError) {
    let versions = "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2"
    let code: Int32
    switch kind {
    case .certificate:
      code = gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, certificate.map { UnsafeMutableRawPointer($0) })
    case .serverKeys:
      code = gnutls_credentials_set(session, GNUTLS_CRD_PSK, serverKeys.map { UnsafeMutableRawPointer($0) })
    case .clientKey:
      code = gnutls_credentials_set(session, GNUTLS_CRD_PSK, clientKey.map { UnsafeMutableRawPointer($0) })
    }
    try TLSError.check(code, "TLS credentials")
    let priorities = kind == .certificate ? versions : versions + ":-KX-ALL:+ECDHE-PSK:+DHE-PSK"
    try TLSError.check(gnutls_priority_set_direct(session, priorities, nil), "TLS priorities")
  }
}

/// How a server proves itself to clients, and which clients it takes.
package struct TLSServerCredentials: Sendable {
  let credentials: TLSCredentials
  let asksForCertificate: Bool

  /// A certificate and its key. With `clientAuthorityFile` clients must have a certificate that it signed; without,
  /// any client may come.
  package init(certificateFile: String, keyFile: String, clientAuthorityFile: String?) throws(TLSError) {
    credentials = try TLSCredentials(
      certificateFile: certificateFile, keyFile: keyFile, authorityFile: clientAuthorityFile, trustsSystem: false)
    asksForCertificate = clientAuthorityFile != nil
  }

  /// Keys that clients share with us: a file with lines `identity:hex`, as psktool writes it.
  package init(preSharedKeyFile: String) throws(TLSError) {
    credentials = try TLSCredentials(serverKeyFile: preSharedKeyFile)
    asksForCertificate = false
  }
}

/// How a client judges the server, and proves itself to it.
package struct TLSClientCredentials: Sendable {
  let credentials: TLSCredentials
  /// With certificates: the name that the server's must have, where it isn't the host that was connected to.
  let serverName: String?

  /// - Parameters:
  ///   - authorityFile: who must have signed the server's certificate; nil: one of the system's authorities.
  ///   - certificateFile: ours, with its key, for servers that ask.
  ///   - serverName: what the server's certificate must be for; nil: the host in the URI.
  package init(
    authorityFile: String?, certificateFile: String? = nil, keyFile: String? = nil, serverName: String? = nil
  ) throws(TLSError) {
    credentials = try TLSCredentials(
      certificateFile: certificateFile, keyFile: keyFile, authorityFile: authorityFile, trustsSystem: true)
    self.serverName = serverName
  }

  /// A key shared with the server, in hexadecimal.
  package init(preSharedKeyIdentity identity: String, hexKey: String) throws(TLSError) {
    credentials = try TLSCredentials(identity: identity, hexKey: hexKey)
    serverName = nil
  }
}
