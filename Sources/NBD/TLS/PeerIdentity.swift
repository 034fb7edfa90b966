import CGnuTLS
import Glibc

/// Who the other side of a TLS connection has proved to be.
package enum PeerIdentity: Hashable, Sendable, CustomStringConvertible {
  /// The subject of its certificate, as RFC 4514 writes it.
  case certificate(subject: String)
  /// The name of the key that it shares with us.
  case sharedKey(name: String)

  package var description: String {
    switch self {
    case .certificate(let subject): subject
    case .sharedKey(let name): "key “\(name)”"
    }
  }
}

extension PeerIdentity {
  /// What the session's handshake has proved; nil if the peer showed nothing.
  init?(of session: gnutls_session_t?) {
    if gnutls_auth_get_type(session) == GNUTLS_CRD_PSK {
      guard let name = gnutls_psk_server_get_username(session) else { return nil }
      self = .sharedKey(name: String(cString: name))
      return
    }
    var count: UInt32 = 0
    guard let chain = gnutls_certificate_get_peers(session, &count), count > 0 else { return nil }
    var certificate: gnutls_x509_crt_t?
    guard gnutls_x509_crt_init(&certificate) >= 0 else { return nil }
    defer { gnutls_x509_crt_deinit(certificate) }
    var subject = gnutls_datum_t()
    guard gnutls_x509_crt_import(certificate, chain, GNUTLS_X509_FMT_DER) >= 0,
      gnutls_x509_crt_get_dn2(certificate, &subject) >= 0, let data = subject.data
    else { return nil }
    // GnuTLS allocates with malloc.
    defer { free(data) }
    self = .certificate(
      subject: String(decoding: UnsafeBufferPointer(start: data, count: Int(subject.size)), as: UTF8.self))
  }
}
