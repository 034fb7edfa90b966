import EventLoops
import Locks
import Logging

/// One client from its first byte to the last: the handshake on the listener's loop, then the transmission on the
/// export's.
struct ServerConnection: Sendable {
  /// A TCP client that has vanished, or takes nothing of what it asked for, holds its export no longer than this.
  private static let vanishedLimit = Duration.seconds(300)
  private static let idleBeforeProbes = Duration.seconds(60)
  private static let probeInterval = Duration.seconds(15)

  private let socket: Socket
  private let listener: NBDListener
  private let place: String
  private var server: NBDServer { listener.server }

  init(_ socket: Socket, _ listener: NBDListener) {
    self.socket = socket
    self.listener = listener
    place = socket.peerDescription ?? "unknown"
    socket.keepAlive(idle: Self.idleBeforeProbes, interval: Self.probeInterval)
    socket.endsUnacknowledged(after: Self.vanishedLimit)
  }

  /// What the handshake ended in.
  private struct Entry: Sendable {
    let stream: any ByteStream
    let agreement: Agreement
    let export: NBDExport
    let client: ExportClient
  }

  /// Serves the client to its end; the socket is closed afterwards.
  func serve() async {
    guard let entry = await shakeHands() else { return socket.close() }
    let loop = entry.export.loop
    entry.stream.move(to: loop)
    let transmission = Transmission(entry.stream, entry.agreement, entry.export, server)
    guard entry.export.enter(transmission, of: listener, entry.client) else {
      await closeOn(loop)
      return
    }
    var metadata = entry.client.metadata
    metadata["export"] = "\(entry.export.name)"
    server.logger.info("a client came", metadata: metadata)
    do {
      if let complaint = try await loop.run({ await transmission.run() }) {
        metadata["fault"] = "\(complaint)"
        server.logger.warning("a client broke the protocol", metadata: metadata)
      }
    } catch {
      // The loops are shut down; there nothing is left to close.
    }
    entry.export.leave(transmission)
  }

  private func closeOn(_ loop: EventLoop) async {
    let socket = socket
    try? await loop.run { socket.close() }
  }

  // MARK: Handshake

  /// The handshake within its time, nil if it didn't lead to an export.
  private func shakeHands() async -> Entry? {
    let outcome = Lock<Entry?>(nil)
    let isLate = Lock(false)
    await withDiscardingTaskGroup { group in
      group.addTask {
        do throws(SystemError) { try await socket.loop.sleep(for: server.options.handshakeTimeout) } catch { return }
        isLate.withLock { $0 = true }
        socket.close()
      }
      do {
        let entry = try await negotiate()
        outcome.withLock { $0 = entry }
      } catch {
        let fault = isLate.withLock { $0 } ? "not done in time" : "\(error)"
        server.logger.info("a handshake failed", metadata: ["client": "\(place)", "fault": "\(fault)"])
      }
      group.cancelAll()
    }
    return outcome.withLock { $0 }
  }

  private func negotiate() async throws -> Entry? {
    var stream: any ByteStream = socket
    var identity: PeerIdentity?
    var handshake = ServerHandshake(policy: listener.security.policy)
    try await stream.sendAll(ServerHandshake.greeting.span.bytes)
    while true {
      guard let bytes = try await stream.receiveBytes(handshake.wantedByteCount) else { return nil }
      // Answers to questions bring further actions.
      var actions = try handshake.take(bytes)
      var export: NBDExport?
      while !actions.isEmpty {
        switch actions.removeFirst() {
        case .send(let bytes): try await stream.sendAll(bytes.span.bytes)
        case .askListings: actions += handshake.answer(listings: listener.listings)
        case .askOffer(let name):
          export = listener.export(named: name)
          if export?.isRemoved == true {
            actions += handshake.refuseQuestion()
          } else {
            actions += try handshake.answer(offer: try await offer(of: export))
          }
        case .startTLS:
          guard let credentials = listener.security.credentials else { return nil }
          let secured = try await TLSStream.server(over: socket, credentials)
          stream = secured
          identity = secured.peerIdentity
          handshake.secured()
        case .enter(let agreement):
          let client = ExportClient(place: place, identity: identity, usesTLS: agreement.isSecure)
          return export.map { Entry(stream: stream, agreement: agreement, export: $0, client: client) }
        case .close:
          await stream.finish()
          return nil
        }
      }
    }
  }

  private func offer(of export: NBDExport?) async throws -> ExportOffer? {
    guard let export else { return nil }
    return try await export.loop.run { export.offer() }
  }
}
