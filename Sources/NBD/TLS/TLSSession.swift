import Bytes
import CGnuTLS
import Glibc

/// One GnuTLS session between two buffers: it never touches a socket, so no call of it waits.
///
/// Used by one thread at a time: its connection's loop, and a worker during the steps of the handshake.
final class TLSSession: @unchecked Sendable {
  // Safe to hand over: the handshake's steps and everything else follow one another.

  enum Step: Sendable {
    case done
    case wantsInput
    case failed(TLSError)
  }

  enum Received {
    case bytes(Int)
    case wantsInput
    case end
  }

  /// The longest record.
  static let recordByteCount = 16 << 10

  private var session: gnutls_session_t?
  private let credentials: TLSCredentials
  private var input: [UInt8] = []
  private var inputStart = 0
  private var output: [UInt8] = []

  /// A server's session.
  convenience init(_ server: TLSServerCredentials) throws(TLSError) {
    try self.init(server.credentials, flags: UInt32(GNUTLS_SERVER))
    if server.asksForCertificate {
      gnutls_certificate_server_set_request(session, GNUTLS_CERT_REQUIRE)
      verifyPeer(for: GNUTLS_KP_TLS_WWW_CLIENT)
    }
  }

  /// A client's session.
  /// - Parameter host: what was connected to; nil for a unix socket.
  convenience init(_ client: TLSClientCredentials, host: String?) throws(TLSError) {
    try self.init(client.credentials, flags: UInt32(GNUTLS_CLIENT))
    guard client.credentials.kind == .certificate else { return }
    let name = client.serverName ?? host
    guard let name else { throw TLSError("over a unix socket the server's name must be stated for TLS") }
    if !Self.isAddress(name) { gnutls_server_name_set(session, GNUTLS_NAME_DNS, name, name.utf8.count) }
    verifyPeer(for: GNUTLS_KP_TLS_WWW_SERVER, of: name)
  }

  /// What the peer's certificate must be for. GnuTLS keeps the pointers.
  private var demands: UnsafeMutableBufferPointer<gnutls_typed_vdata_st>?

  /// Has the handshake verify the peer's certificate: who signed it, its dates, that it may serve `purpose`, and that
  /// it is the certificate of `host`. One that states no purpose may serve any (RFC 5280, section 4.2.1.12).
  private func verifyPeer(for purpose: String, of host: String? = nil) {
    let texts = [(GNUTLS_DT_KEY_PURPOSE_OID, purpose)] + (host.map { [(GNUTLS_DT_DNS_HOSTNAME, $0)] } ?? [])
    let data = UnsafeMutablePointer<gnutls_typed_vdata_st>.allocate(capacity: texts.count)
    for (index, (type, text)) in texts.enumerated() {
      let copy = UnsafeMutableRawPointer(strdup(text)).assumingMemoryBound(to: UInt8.self)
      (data + index).initialize(to: gnutls_typed_vdata_st(type: type, data: copy, size: 0))
    }
    demands = UnsafeMutableBufferPointer(start: data, count: texts.count)
    gnutls_session_set_verify_cert2(session, data, UInt32(texts.count), 0)
  }

  private init(_ credentials: TLSCredentials, flags: UInt32) throws(TLSError) {
    self.credentials = credentials
    try TLSError.check(gnutls_init(&session, flags | UInt32(GNUTLS_NONBLOCK)), "TLS")
    try credentials.apply(to: session)
    let context = Unmanaged.passUnretained(self).toOpaque()
    gnutls_transport_set_ptr(session, context)
    gnutls_transport_set_push_function(session, pushToOutput)
    gnutls_transport_set_pull_function(session, pullFromInput)
  }

  deinit {
    if let session { gnutls_deinit(session) }
    for demand in demands ?? .init(start: nil, count: 0) { free(demand.data) }
    demands?.deallocate()
  }

  private static func isAddress(_ name: String) -> Bool {
    switch NetworkHost(withoutBrackets: name) {
    case .ipv4, .ipv6: true
    case .name, nil: false
    }
  }

  // MARK: Buffers

  /// Hands in what came from the peer.
  func feed(_ bytes: RawSpan) {
    if inputStart == input.count {
      input.removeAll(keepingCapacity: true)
      inputStart = 0
    }
    bytes.withUnsafeBytes { input.append(contentsOf: $0) }
  }

  /// Takes what is to be sent to the peer.
  func takeOutput() -> [UInt8] {
    defer { output = [] }
    return output
  }

  var hasOutput: Bool { !output.isEmpty }
  var outputByteCount: Int { output.count }

  fileprivate func push(_ bytes: UnsafeRawBufferPointer) { output.append(contentsOf: bytes) }

  fileprivate func pull(into target: UnsafeMutableRawBufferPointer) -> Int {
    let count = min(target.count, input.count - inputStart)
    guard count > 0 else {
      gnutls_transport_set_errno(session, EAGAIN)
      return -1
    }
    input.withUnsafeBytes {
      target.copyMemory(from: UnsafeRawBufferPointer(rebasing: $0[inputStart..<inputStart + count]))
    }
    inputStart += count
    return count
  }

  // MARK: Calls

  /// Goes on with the handshake as far as the input allows; a failure leaves an alert in the output.
  func handshake() -> Step {
    while true {
      let code = gnutls_handshake(session)
      if code == GNUTLS_E_SUCCESS { return .done }
      if code == GNUTLS_E_AGAIN { return .wantsInput }
      if gnutls_error_is_fatal(code) == 0 { continue }
      gnutls_alert_send_appropriate(session, code)
      return .failed(TLSError("the TLS handshake failed: \(reason(code))"))
    }
  }

  /// Who the peer proved to be, once the handshake is done.
  var peerIdentity: PeerIdentity? { PeerIdentity(of: session) }

  private func reason(_ code: Int32) -> String {
    guard code == GNUTLS_E_CERTIFICATE_VERIFICATION_ERROR else { return String(cString: gnutls_strerror(code)) }
    var text = gnutls_datum_t()
    let status = gnutls_session_get_verify_cert_status(session)
    guard gnutls_certificate_verification_status_print(status, GNUTLS_CRT_X509, &text, 0) == 0, let data = text.data
    else { return String(cString: gnutls_strerror(code)) }
    // GnuTLS allocates with malloc.
    defer { free(data) }
    return String(decoding: UnsafeBufferPointer(start: data, count: Int(text.size)), as: UTF8.self)
  }

  /// Decrypts what has come.
  func receive(into target: inout MutableRawSpan) throws(TLSError) -> Received {
    while true {
      let count = target.withUnsafeMutableBytes { gnutls_record_recv(session, $0.baseAddress, $0.count) }
      if count > 0 { return .bytes(count) }
      if count == 0 { return .end }
      let code = Int32(count)
      if code == GNUTLS_E_AGAIN { return .wantsInput }
      // Without a goodbye the end is an end all the same.
      if code == GNUTLS_E_PREMATURE_TERMINATION { return .end }
      if code == GNUTLS_E_REHANDSHAKE { throw TLSError("the peer asks for another TLS handshake") }
      if gnutls_error_is_fatal(code) != 0 { throw TLSError(code, "TLS") }
    }
  }

  /// Encrypts one record of at most ``recordByteCount`` to the output.
  func send(_ bytes: RawSpan) throws(TLSError) {
    var done = 0
    while done < bytes.byteCount {
      let count = bytes.extracting(done..<bytes.byteCount).withUnsafeBytes {
        gnutls_record_send(session, $0.baseAddress, $0.count)
      }
      if count > 0 {
        done += count
      } else if gnutls_error_is_fatal(Int32(count)) != 0 {
        throw TLSError(Int32(count), "TLS")
      }
    }
  }

  /// Says goodbye to the output.
  func sayGoodbye() { gnutls_bye(session, GNUTLS_SHUT_WR) }
}

private func pushToOutput(_ context: gnutls_transport_ptr_t?, _ bytes: UnsafeRawPointer?, _ count: Int) -> Int {
  guard let context else { return -1 }
  Unmanaged<TLSSession>.fromOpaque(context).takeUnretainedValue()
    .push(UnsafeRawBufferPointer(start: bytes, count: count))
  return count
}

private func pullFromInput(_ context: gnutls_transport_ptr_t?, _ target: UnsafeMutableRawPointer?, _ count: Int) -> Int
{
  guard let context else { return -1 }
  return Unmanaged<TLSSession>.fromOpaque(context).takeUnretainedValue()
    .pull(into: UnsafeMutableRawBufferPointer(start: target, count: count))
}
