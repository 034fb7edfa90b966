import EventLoops
import Glibc

/// A connection through TLS, over a socket. Confined to the socket's loop.
final class TLSStream: ByteStream, @unchecked Sendable {
  // Safe to hand over: confined to its loop, like the socket.

  /// Encrypted bytes are sent at the latest when this many have gathered.
  private static let outputByteCount = 128 << 10

  private let socket: Socket
  private let session: TLSSession
  private var arrived = [UInt8](repeating: 0, count: 64 << 10)
  private var record: [UInt8] = []

  private init(_ socket: Socket, _ session: TLSSession) {
    self.socket = socket
    self.session = session
    record.reserveCapacity(TLSSession.recordByteCount)
  }

  /// The stream once TLS is up. The handshake's reckoning runs off the loop.
  static func server(over socket: Socket, _ credentials: TLSServerCredentials) async throws -> TLSStream {
    let stream = TLSStream(socket, try TLSSession(credentials))
    try await stream.shakeHands()
    return stream
  }

  /// - Parameter host: what was connected to; nil for a unix socket.
  static func client(
    over socket: Socket, _ credentials: TLSClientCredentials, host: String?
  ) async throws -> TLSStream {
    let stream = TLSStream(socket, try TLSSession(credentials, host: host))
    try await stream.shakeHands()
    return stream
  }

  /// Who the peer proved to be.
  var peerIdentity: PeerIdentity? { session.peerIdentity }

  private func shakeHands() async throws {
    while true {
      let session = session
      let step = await socket.loop.blocking { session.handshake() }
      try await flush()
      switch step {
      case .done: return
      case .failed(let error): throw error
      case .wantsInput:
        if try await takeInput() == 0 { throw TLSError("the peer left during the TLS handshake") }
      }
    }
  }

  private func takeInput() async throws(SystemError) -> Int {
    try await Self.take(&arrived, from: socket, to: session)
  }

  private static func take(
    _ arrived: inout [UInt8], from socket: Socket, to session: TLSSession
  ) async throws(SystemError) -> Int {
    var span = arrived.mutableSpan
    var target = span.mutableBytes
    let count = try await socket.receive(into: &target)
    session.feed(arrived.span.bytes.extracting(0..<count))
    return count
  }

  private func flush() async throws(SystemError) {
    while session.hasOutput { try await socket.sendAll(session.takeOutput().span.bytes) }
  }

  func receive(into buffer: inout MutableRawSpan) async throws(SystemError) -> Int {
    while true {
      let received: TLSSession.Received
      do throws(TLSError) { received = try session.receive(into: &buffer) } catch { throw Self.broken(error) }
      switch received {
      case .bytes(let count): return count
      case .end: return 0
      case .wantsInput:
        if try await takeInput() == 0 { return 0 }
      }
    }
  }

  func sendAll(_ bytes: RawSpan) async throws(SystemError) {
    try await sendAll(bytes, pieces: [0..<bytes.byteCount])
  }

  /// Small pieces share records.
  func sendAll(_ bytes: RawSpan, pieces: [Range<Int>]) async throws(SystemError) {
    for piece in pieces { try await append(bytes.extracting(piece)) }
    if !record.isEmpty { try encryptRecord() }
    try await flush()
  }

  func sendAll(_ header: RawSpan, _ payload: RawSpan) async throws(SystemError) {
    try await append(header)
    try await append(payload)
    if !record.isEmpty { try encryptRecord() }
    try await flush()
  }

  private func append(_ bytes: RawSpan) async throws(SystemError) {
    var start = 0
    while start < bytes.byteCount {
      let end = min(bytes.byteCount, start + TLSSession.recordByteCount - record.count)
      bytes.extracting(start..<end).withUnsafeBytes { record.append(contentsOf: $0) }
      start = end
      if record.count == TLSSession.recordByteCount { try encryptRecord() }
      if session.outputByteCount >= Self.outputByteCount { try await flush() }
    }
  }

  private func encryptRecord() throws(SystemError) {
    do throws(TLSError) { try Self.encrypt(record, session) } catch { throw Self.broken(error) }
    record.removeAll(keepingCapacity: true)
  }

  private static func encrypt(_ record: [UInt8], _ session: TLSSession) throws(TLSError) {
    try session.send(record.span.bytes)
  }

  private static func broken(_ error: TLSError) -> SystemError { SystemError(EPROTO, error.description) }

  func endReceiving() { socket.endReceiving() }

  func finish() async {
    session.sayGoodbye()
    try? await flush()
  }

  func close() { socket.close() }

  func move(to loop: EventLoop) { socket.move(to: loop) }
}
