import Bytes
import EventLoops
import Glibc
import Locks

/// How a client gets from a URI to a connection in transmission.
struct ClientDialing: Sendable {
  // A server that has vanished is noticed after 30 s + 3 × 10 s without any traffic.
  private static let idleBeforeProbes = Duration.seconds(30)
  private static let probeInterval = Duration.seconds(10)
  private static let probeCount = 3

  let uri: NBDURI
  let wishes: ClientHandshake.Wishes
  let credentials: TLSClientCredentials?
  /// From the first packet to the end of the handshake; looking up the host's name may come on top.
  let timeout: Duration

  /// A connection, and what was agreed on.
  /// - Throws: `SystemError` (ETIMEDOUT where the server was silent), `NBDProtocolError` or `TLSError`.
  func connect(on loop: EventLoop) async throws -> (any ByteStream, Agreement) {
    let attempt = Task(executorPreference: loop) { try await dial(on: loop) }
    let isLate = Lock(false)
    let timer = Task(executorPreference: loop) {
      do throws(SystemError) { try await loop.sleep(for: timeout) } catch { return }
      isLate.withLock { $0 = true }
      attempt.cancel()
    }
    defer { timer.cancel() }
    do {
      return try await withTaskCancellationHandler {
        try await attempt.value
      } onCancel: {
        attempt.cancel()
      }
    } catch {
      if isLate.withLock({ $0 }) {
        throw SystemError(ETIMEDOUT, "the server didn't answer within \(timeout)")
      }
      throw error
    }
  }

  private func dial(on loop: EventLoop) async throws -> (any ByteStream, Agreement) {
    let socket = try await openSocket(on: loop)
    socket.keepAlive(idle: Self.idleBeforeProbes, interval: Self.probeInterval, count: Self.probeCount)
    do {
      return try await shakeHands(socket)
    } catch {
      socket.close()
      throw error
    }
  }

  private func openSocket(on loop: EventLoop) async throws(SystemError) -> Socket {
    switch uri.place {
    case .unix(let path): return try await Socket.connect(to: .unix(path: path), on: loop)
    case .tcp(let host, let port):
      let addresses = try await loop.blocking(in: .folder("names of hosts")) { () throws(SystemError) in
        try Self.addresses(of: host)
      }
      var failure = SystemError(EHOSTUNREACH, host)
      for address in addresses {
        do throws(SystemError) {
          return try await Socket.connect(to: .ip(host: address, port: port), on: loop)
        } catch {
          failure = error
        }
      }
      throw failure
    }
  }

  /// A host's numeric addresses, the best first. Blocks.
  private static func addresses(of host: String) throws(SystemError) -> [String] {
    var hints = addrinfo()
    hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
    var list: UnsafeMutablePointer<addrinfo>?
    let code = getaddrinfo(host, nil, &hints, &list)
    guard code == 0 else { throw SystemError(EHOSTUNREACH, "\(host): \(String(cString: gai_strerror(code)))") }
    defer { freeaddrinfo(list) }
    var found: [String] = []
    var entry = list
    while let info = entry?.pointee {
      var text = [CChar](repeating: 0, count: Int(NI_MAXHOST))
      if getnameinfo(info.ai_addr, info.ai_addrlen, &text, socklen_t(text.count), nil, 0, NI_NUMERICHOST) == 0 {
        found.append(String(decoding: text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self))
      }
      entry = info.ai_next
    }
    return found
  }

  private func shakeHands(_ socket: Socket) async throws -> (any ByteStream, Agreement) {
    var stream: any ByteStream = socket
    var handshake = ClientHandshake(wishes)
    while true {
      guard let bytes = try await stream.receiveBytes(handshake.wantedByteCount) else {
        throw SystemError(ECONNRESET, "the server closed the connection during the handshake")
      }
      var actions = try handshake.take(bytes)
      while !actions.isEmpty {
        switch actions.removeFirst() {
        case .send(let bytes): try await stream.sendAll(bytes.span.bytes)
        case .startTLS:
          guard let credentials else { throw TLSError("no credentials for TLS were given") }
          stream = try await TLSStream.client(over: socket, credentials, host: host)
          actions += handshake.secured()
        case .enter(let agreement): return (stream, agreement)
        }
      }
    }
  }

  private var host: String? {
    if case .tcp(let host, _) = uri.place { host } else { nil }
  }
}
