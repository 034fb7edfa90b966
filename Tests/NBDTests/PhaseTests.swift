import BlockCore
import BlockTesting
import Bytes
import Foundation
import Locks
import NBD
import Testing

/// Clients that stop, fall silent or talk nonsense at every place of a conversation. Others are served all the while,
/// and nothing of them is left.
@Suite struct PhaseTests {
  /// Whole conversations as a client sends them; each stands for a way through handshake and transmission.
  struct Script: Sendable, CustomTestStringConvertible {
    let testDescription: String
    /// Messages, or parts of them that are read at once.
    let parts: [[UInt8]]
    var bytes: [UInt8] { Array(parts.joined()) }
    /// Where transmission begins.
    let handshakeByteCount: Int

    fileprivate init(_ name: String, handshake: [[UInt8]], transmission: [[UInt8]]) {
      testDescription = name
      parts = handshake + transmission
      handshakeByteCount = handshake.joined().count
    }

    private static func option(_ code: UInt32, _ payload: [UInt8] = []) -> [[UInt8]] {
      let header = Array("IHAVEOPT".utf8) + big(code) + big(UInt32(payload.count))
      return payload.isEmpty ? [header] : [header, payload]
    }

    private static func request(
      _ type: UInt16, flags: UInt16 = 0, _ length: UInt32 = 0, extended: Bool = false, _ payload: [UInt8] = []
    ) -> [[UInt8]] {
      let magic: UInt32 = extended ? 0x21e4_1c71 : 0x2560_9513
      let size = extended ? big(UInt64(length)) : big(length)
      let header = big(magic) + big(flags) + big(type) + big(UInt64(7)) + big(UInt64(0)) + size
      return payload.isEmpty ? [header] : [header, payload]
    }

    private static let flags = [big(UInt32(3))]
    private static let contexts = RawClient.contextPayload("disk", ["base:allocation", "qemu:allocation-depth"])
    private static let data = [UInt8](repeating: 5, count: 40)

    static let all = [
      Script(
        "simple replies, by EXPORT_NAME", handshake: flags + option(3) + option(1, Array("disk".utf8)),
        transmission: request(1, 40, data) + request(0, 4096) + request(3) + request(2)),
      Script(
        "structured replies",
        handshake: flags + option(8) + option(9, contexts) + option(10, contexts)
          + option(6, RawClient.goPayload("disk"))
          + option(7, RawClient.goPayload("disk")),
        transmission: request(0, 70_000) + request(7, 1 << 20) + request(1, 40, data) + request(6, 512) + request(2)),
      Script(
        "extended headers",
        handshake: flags + option(11) + option(10, contexts) + option(7, RawClient.goPayload("disk")),
        transmission: request(1, flags: 32, 40, extended: true, data)
          + request(7, flags: 32, 12, extended: true, big(UInt64(4096)) + big(UInt32(1)))
          + request(0, 4096, extended: true) + request(2, extended: true)),
    ]
  }

  private func withDisk(
    _ options: NBDServerOptions = NBDServerOptions.patient, _ body: (World) async throws -> Void
  ) async throws {
    try await withWorld(options, loopCount: 1) { world in
      var image = sampleImage(1 << 20)
      image.write([UInt8](repeating: 1, count: 512).span.bytes, at: 0)
      try world.publish(MemoryDevice(image))
      try world.publishForBystanders()
      try await body(world)
      try await eventually("everybody is gone") { world.server.connectionCount == 0 }
      #expect(world.server.lentByteCount == 0)
    }
  }

  /// At every single byte: the client ends its side and listens on, or is gone at once.
  @Test(arguments: Script.all) func cutAnywhereLeavesNothing(_ script: Script) async throws {
    try await withDisk { world in
      let path = world.socketPath
      try await Bystander.watch(world) { () throws in
        for count in 0...script.bytes.count {
          let client = try BlockingSocket(connectingTo: path)
          #expect(client.send(Array(script.bytes.prefix(count))))
          guard count % 2 == 0 else { continue }
          client.end(SHUT_WR)
          while !client.receive().isEmpty {}
        }
      }
    }
  }

  /// In place of each part of the conversation, and after a piece of it.
  @Test(arguments: Script.all) func garbageAnywhereEndsTheConnection(_ script: Script) async throws {
    let seed: UInt64 = 40
    var random = SeededRandom(seed: seed)
    var messages: [[UInt8]] = []
    for index in script.parts.indices {
      for keeps in [0, script.parts[index].count / 2] {
        let before = script.parts[..<index].joined() + script.parts[index].prefix(keeps)
        for kind in 0..<3 {
          let garbage = kind == 0 ? random.bytes(300) : [UInt8](repeating: kind == 1 ? 0xff : 0, count: 300)
          messages.append(before + garbage)
        }
      }
    }
    let sent = messages
    try await withDisk { world in
      let path = world.socketPath
      try await Bystander.watch(world) { () throws in
        for bytes in sent {
          let client = try BlockingSocket(connectingTo: path)
          // The server may have had enough before it has all.
          _ = client.send(bytes)
          client.end(SHUT_WR)
          while !client.receive().isEmpty {}
        }
      }
    }
  }

  /// Where a message of the protocol must begin, a wrong one ends the connection without waiting for more.
  @Test(arguments: Script.all) func wrongMagicEndsTheConnectionAtOnce(_ script: Script) async throws {
    try await withDisk { world in
      let path = world.socketPath
      try await Bystander.watch(world) { () throws in
        var before: [UInt8] = []
        for part in script.parts {
          // Headers begin with a magic number; payloads may hold anything.
          if part.starts(with: "IHAVEOPT".utf8) || part.starts(with: big(UInt16(0x2560)))
            || part.starts(with: big(UInt16(0x21e4)))
          {
            let client = try BlockingSocket(connectingTo: path)
            var wrong = part
            wrong[1] ^= 0x20
            #expect(client.send(before + wrong))
            while !client.receive().isEmpty {}
          }
          before += part
        }
      }
    }
  }

  /// Silence after every byte of the handshake, all at once: the time limit ends each of them and nobody else.
  @Test func silenceAnywhereInTheHandshakeEndsInTime() async throws {
    var options = NBDServerOptions.patient
    // Long enough for the bystander and the newcomer on a busy machine.
    options.handshakeTimeout = .milliseconds(1500)
    options.maximumConnectionCount = 1000
    try await withDisk(options) { world in
      let path = world.socketPath
      try await Bystander.watch(world) { () throws in
        var silent: [BlockingSocket] = []
        for script in Script.all {
          for count in 0..<script.handshakeByteCount {
            let client = try BlockingSocket(connectingTo: path)
            // On a busy machine the first have had their time.
            _ = client.send(Array(script.bytes.prefix(count)))
            silent.append(client)
          }
        }
        let start = Date()
        for client in silent { while !client.receive().isEmpty {} }
        #expect(Date().timeIntervalSince(start) < 10)
      }
    }
  }

  /// Silence after every byte of a request holds up nobody, however many do it, and isn't punished.
  @Test func silenceAnywhereInTransmissionHoldsUpNobody() async throws {
    var options = NBDServerOptions.patient
    options.maximumConnectionCount = 1000
    try await withDisk(options) { world in
      let (path, server) = (world.socketPath, world.server)
      try await Bystander.watch(world) { () throws in
        var silent: [BlockingSocket] = []
        for script in Script.all {
          for count in script.handshakeByteCount..<script.bytes.count - 32 where count % 3 == 0 {
            let client = try BlockingSocket(connectingTo: path)
            #expect(client.send(Array(script.bytes.prefix(count))))
            silent.append(client)
          }
        }
        let bystander = try RawClient(path)
        try bystander.enter(Bystander.exportName)
        for _ in 0..<20 { try bystander.expectSample() }
        #expect(server.connectionCount == silent.count + 2)
      }
    }
  }

  /// The same through TLS: our client's own bytes, cut after so many of them.
  @Test func cutAnywhereUnderTLSLeavesNothing() async throws {
    let certificates = try await Certificates.shared.value
    try await withWorld(security: .required(try certificates.server()), loopCount: 1) { world in
      try world.publish(MemoryDevice(sampleImage(64 << 10)))
      let limit = Lock((isOfClient: true, byteCount: 0))
      let path = world.folder.file("proxy")
      let proxy = try Proxy(path, before: world.socketPath) { _ in
        let (isOfClient, byteCount) = limit.withLock { $0 }
        return isOfClient ? Proxy.Harm(clientByteCount: byteCount) : Proxy.Harm(serverByteCount: byteCount)
      }
      var options = NBDDevice.Options()
      options.reconnectTimeout = .zero
      options.credentials = try certificates.client(serverName: "localhost")
      let uri = NBDURI(.unix(path: path), exportName: "disk", usesTLS: true)
      for isOfClient in [true, false] {
        for byteCount in Array(0..<60) + Array(stride(from: 60, to: 2400, by: 61)) {
          limit.withLock { $0 = (isOfClient, byteCount) }
          // Whole or not at all: cut late enough, the bytes were all there before.
          let bytes = try? await withDevice(uri, options, world.loops) { _, device in try await device.readAll() }
          if let bytes { #expect(bytes.count == 64 << 10) }
        }
      }
      limit.withLock { $0 = (true, .max) }
      let bytes = try await withDevice(uri, options, world.loops) { _, device in try await device.readAll() }
      #expect(bytes.count == 64 << 10)
      try await eventually("everybody is gone") { world.server.connectionCount == 0 }
      withExtendedLifetime(proxy) {}
    }
  }
}
