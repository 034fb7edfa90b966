import BlockCore
import BlockTesting
import Bytes
import EventLoops
import Foundation
import Locks
import Logging
import NBD
import Testing

/// Keeps what is logged.
private final class RecordingLog: LogHandler, Sendable {
  struct Entry: Sendable {
    let level: Logger.Level
    let message: String
    let metadata: [String: String]
  }

  private let kept = Lock<[Entry]>([])
  var entries: [Entry] { kept.withLock { $0 } }
  var logger: Logger { Logger(label: "nbd") { _ in self } }

  var logLevel: Logger.Level {
    get { .trace }
    set {}
  }
  var metadata: Logger.Metadata {
    get { [:] }
    set {}
  }
  subscript(metadataKey key: String) -> Logger.Metadata.Value? {
    get { nil }
    set {}
  }

  func log(event: LogEvent) {
    let entry = Entry(
      level: event.level, message: "\(event.message)", metadata: (event.metadata ?? [:]).mapValues { "\($0)" })
    kept.withLock { $0.append(entry) }
  }

  func first(_ message: String) -> Entry? { entries.first { $0.message == message } }
}

/// An operator sees who uses an export, and who was turned away.
@Suite struct ClientIdentityTests {
  private func expectClient(
    _ security: ListenerSecurity, _ credentials: TLSClientCredentials?, _ identity: PeerIdentity?
  ) async throws {
    let log = RecordingLog()
    let anyPort = SocketAddress.ip(host: "127.0.0.1", port: 0)
    try await withWorld(security: security, address: anyPort, logger: log.logger) { world in
      guard case .ip(_, let port) = world.listener.address else { return }
      let export = try world.publish(MemoryDevice(byteCount: 4096))
      var options = NBDDevice.Options()
      options.credentials = credentials
      let uri = NBDURI(.tcp(host: "localhost", port: port), exportName: "disk", usesTLS: credentials != nil)
      try await withDevice(uri, options, world.loops) { _, device in
        _ = try await device.readBytes(1, at: 0)
        let client = try #require(export.clients.first)
        #expect(export.clients.count == 1)
        #expect(client.identity == identity)
        #expect(client.usesTLS == (credentials != nil))
        #expect(client.place.hasPrefix("127.0.0.1:"))
      }
      let entry = try #require(log.first("a client came"))
      #expect(entry.level == .info)
      #expect(entry.metadata["export"] == "disk")
      #expect(entry.metadata["identity"] == identity.map { "\($0)" })
      #expect(entry.metadata["client"]?.hasPrefix("127.0.0.1:") == true)
      #expect(entry.metadata["tls"] == (credentials == nil ? "false" : "true"))
      try await eventually("it is gone") { export.clients.isEmpty }
    }
  }

  @Test func certificateTellsItsSubject() async throws {
    let certificates = try await Certificates.shared.value
    try await expectClient(
      .required(try certificates.server()), try certificates.client(), .certificate(subject: "CN=client"))
  }

  @Test func sharedKeyTellsItsName() async throws {
    let certificates = try await Certificates.shared.value
    try await expectClient(
      .required(try TLSServerCredentials(preSharedKeyFile: certificates.keyFile)),
      try TLSClientCredentials(preSharedKeyIdentity: "alice", hexKey: Certificates.key), .sharedKey(name: "alice"))
  }

  @Test func clientThatIsNotAskedForProofHasNoIdentity() async throws {
    let certificates = try await Certificates.shared.value
    try await expectClient(.optional(try certificates.server(asksClients: false)), try certificates.client(), nil)
    try await expectClient(.optional(try certificates.server(asksClients: false)), nil, nil)
  }

  @Test func unixSocketTellsTheProcess() async throws {
    try await withWorld { world in
      let export = try world.publish(MemoryDevice(byteCount: 4096))
      try await world.withClient("disk") { _, device in
        _ = try await device.readBytes(1, at: 0)
        #expect(export.clients.map(\.place) == ["process \(getpid()) of user \(getuid())"])
      }
    }
  }

  @Test func whoIsTurnedAwayIsLoggedWithTheReason() async throws {
    let certificates = try await Certificates.shared.value
    let log = RecordingLog()
    try await withWorld(security: .required(try certificates.server()), logger: log.logger) { world in
      let export = try world.publish(MemoryDevice(byteCount: 4096))
      var options = NBDDevice.Options()
      options.reconnectTimeout = .zero
      let uri = NBDURI(.unix(path: world.socketPath), exportName: "disk", usesTLS: true)
      let refusals = [("other", "NOT trusted"), ("expired", "expired"), (nil, "Certificate is required")]
      for (turn, (name, reason)) in refusals.enumerated() {
        options.credentials = try certificates.client(as: name, serverName: "localhost")
        let wishes = options
        await #expect(throws: BlockError.self) {
          try await withDevice(uri, wishes, world.loops) { _, device in try await device.readBytes(1, at: 0) }
        }
        try await eventually("the log tells of it") { log.entries.count { $0.message == "a handshake failed" } > turn }
        let entry = try #require(log.entries.last { $0.message == "a handshake failed" })
        #expect(entry.level == .info)
        #expect(entry.metadata["fault"]?.contains(reason) == true, "\(entry)")
        #expect(entry.metadata["client"]?.contains("process \(getpid())") == true)
      }
      #expect(log.first("a client came") == nil)
      #expect(export.figures.totalClientCount == 0)
    }
  }

  /// Without TLS nothing is told of an export that insists on it (SELECTIVETLS).
  @Test func contextsOfAnExportThatInsistsAreUnknownWithoutTLS() async throws {
    let certificates = try await Certificates.shared.value
    try await withWorld(security: .optional(try certificates.server())) { world in
      var options = NBDExport.Options()
      options.requiresTLS = true
      try world.publish(MemoryDevice(byteCount: 4096), options: options)
      try await RawClient.with(world.socketPath) { client in
        try client.greet()
        try client.option(8)
        #expect(try client.optionReplies() == [1])
        for option: UInt32 in [9, 10] {
          try client.option(option, RawClient.contextPayload("disk", ["base:allocation"]))
          #expect(try client.optionReplies() == [1 << 31 | 6])
        }
        for option: UInt32 in [6, 7] {
          try client.option(option, RawClient.goPayload("disk"))
          #expect(try client.optionReplies() == [1 << 31 | 5])
        }
        try client.option(1, Array("disk".utf8))
        #expect(client.isEnded)
      }
    }
  }

  // MARK: Peers that vanish

  /// The options that have the kernel notice a peer that is gone are set on both ends, and no reply waits for another.
  @Test func vanishedPeersAreLookedFor() async throws {
    try await withWorld(address: .ip(host: "127.0.0.1", port: 0)) { world in
      guard case .ip(_, let port) = world.listener.address else { return }
      try world.publish(MemoryDevice(byteCount: 4096))
      let uri = NBDURI(.tcp(host: "127.0.0.1", port: port), exportName: "disk")
      try await withDevice(uri, NBDDevice.Options(), world.loops) { _, device in
        _ = try await device.readBytes(1, at: 0)
        let ends = (0..<4096).map(Int32.init).filter { Self.port(of: $0, getpeername) != nil }
        let servers = ends.filter { Self.port(of: $0, getsockname) == port }
        let clients = ends.filter { Self.port(of: $0, getpeername) == port }
        #expect(servers.count == 1 && clients.count == 1)
        for end in servers + clients {
          #expect(Self.option(end, SOL_SOCKET, SO_KEEPALIVE) == 1)
          #expect(Self.option(end, Int32(IPPROTO_TCP), TCP_NODELAY) == 1)
          let idle = Self.option(end, Int32(IPPROTO_TCP), TCP_KEEPIDLE)
          #expect(idle >= 15 && idle <= 60)
          #expect(Self.option(end, Int32(IPPROTO_TCP), TCP_KEEPINTVL) <= 15)
          #expect(Self.option(end, Int32(IPPROTO_TCP), TCP_KEEPCNT) <= 4)
        }
        // What it sent and nobody acknowledges holds an export no longer than this.
        for end in servers { #expect(Self.option(end, Int32(IPPROTO_TCP), TCP_USER_TIMEOUT) == 300_000) }
      }
    }
  }

  private static func port(
    of descriptor: Int32, _ name: (Int32, UnsafeMutablePointer<sockaddr>?, UnsafeMutablePointer<socklen_t>?) -> Int32
  ) -> UInt16? {
    var address = sockaddr_in()
    var length = socklen_t(MemoryLayout<sockaddr_in>.size)
    let result = withUnsafeMutablePointer(to: &address) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { name(descriptor, $0, &length) }
    }
    return result == 0 && address.sin_family == sa_family_t(AF_INET) ? UInt16(bigEndian: address.sin_port) : nil
  }

  private static func option(_ descriptor: Int32, _ level: Int32, _ name: Int32) -> Int32 {
    var value: Int32 = -1
    var length = socklen_t(MemoryLayout<Int32>.size)
    getsockopt(descriptor, level, name, &value, &length)
    return value
  }
}
