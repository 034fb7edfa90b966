import BlockCore
import BlockTesting
import Bytes
import Foundation
import Glibc
import Locks
import RawFile
import Testing

@testable import NBD

/// Mutated conversations for a bounded time: everything may be refused, nothing may trap or hang, and what a client
/// held is given back.
///
/// `FUZZ_SECONDS` says for how long (default 5; the client gets a fifth on top), `FUZZ_SEED` where to begin. Meant to be run with
/// `--sanitize=address` too; each failure names the seed of its round.
@Suite(.serialized) struct FuzzTests {
  private static func number(_ name: String, default value: UInt64) -> UInt64 {
    getenv(name).flatMap { UInt64(String(cString: $0)) } ?? value
  }

  static let seconds = number("FUZZ_SECONDS", default: 5)
  static let firstSeed = number("FUZZ_SEED", default: 1)
  /// Conversations at once.
  private static let clientCount = 6
  /// Longer than any conversation may take, on a busy machine and with sanitizers.
  private static let timeoutSeconds = 60

  // MARK: The server

  @Test func mutatedConversationsNeverTrapOrHangTheServer() async throws {
    let certificates = try await Certificates.shared.value
    let security = ListenerSecurity.optional(try certificates.server(asksClients: false))
    var options = NBDServerOptions.patient
    options.handshakeTimeout = .seconds(Int(Self.timeoutSeconds))
    try await withWorld(options, security: security) { world in
      var exports: [NBDExport] = []
      for (name, deviceOptions) in Self.devices {
        var exportOptions = NBDExport.Options()
        exportOptions.isReadOnly = name == "readonly"
        exportOptions.requiresTLS = name == "secret"
        exportOptions.contexts.append(EvenBlocks())
        exports.append(
          try world.publish(
            MemoryDevice(sampleImage(1 << 20), options: deviceOptions), as: name, isDefault: name == "disk",
            options: exportOptions))
      }
      let (file, onFile) = try await Self.publishFile(world)
      exports.append(onFile)
      try world.publishForBystanders()
      let next = Lock(Self.firstSeed)
      let path = world.socketPath
      let end = Date().addingTimeInterval(TimeInterval(Self.seconds))
      while Date() < end {
        // From time to time all leave, and nothing of them may be left.
        let pauseAt = min(end, Date().addingTimeInterval(2))
        try await Bystander.watch(world) { () async throws in
          try await withThrowingTaskGroup(of: Void.self) { group in
            for _ in 0..<Self.clientCount {
              group.addTask { try await Self.onThread { try Self.converse(path, next, until: pauseAt) } }
            }
            try await group.waitForAll()
          }
        }
        try await eventually(within: Double(Self.timeoutSeconds), "everybody is gone, near \(Self.seed(next))") {
          world.server.connectionCount == 0
        }
        #expect(world.server.lentByteCount == 0 && world.server.lentPipeCount == 0, "near \(Self.seed(next))")
        for export in exports {
          #expect(export.clients.isEmpty && export.lentByteCount == 0, "near \(Self.seed(next))")
        }
      }
      let answered = exports.reduce(0) { sum, export in
        sum + ExportFigures.Kind.allCases.reduce(0) { $0 + export.figures[$1].count }
      }
      let entered = exports.reduce(0) { $0 + $1.figures.totalClientCount }
      print(
        "fuzzed \(Self.seed(next) - Self.firstSeed) conversations with the server from seed \(Self.firstSeed) on;",
        "\(entered) came to transmission, with \(answered) requests")
      #expect(entered > 0 && answered > entered)
      try await onFile.remove(.hard(grace: .seconds(2)))
      try await onFile.loop.run { try await file.close() }
    }
  }

  /// Long READs of a file take a way of their own.
  private static func publishFile(_ world: World) async throws -> (RawFile, NBDExport) {
    let path = world.folder.file("file")
    try sampleImage(1 << 20, seed: 3).dump(to: path)
    let loop = world.loops.next()
    let device = try await loop.run { try await RawFile.open(.path(path), .init(isReadOnly: false), on: loop) }
    let export = NBDExport(name: "file", device: device, loop: loop)
    try world.listener.publish(export)
    return (device, export)
  }

  private static func seed(_ next: Lock<UInt64>) -> UInt64 { next.withLock { $0 } }

  private static let devices: [(String, MemoryDevice.Options)] = {
    var waiting = MemoryDevice.Options()
    waiting.answersTryRead = false
    waiting.interleavingSeed = 3
    var aligned = waiting
    aligned.limits.requestAlignment = 512
    aligned.zeroesFast = false
    return [
      ("disk", MemoryDevice.Options()), ("readonly", MemoryDevice.Options()), ("aligned", aligned),
      ("waiting", waiting), ("secret", MemoryDevice.Options()),
    ]
  }()

  private static func onThread(_ body: @Sendable @escaping () throws -> Void) async throws {
    try await withCheckedThrowingContinuation { continuation in
      Thread { continuation.resume(with: Result { try body() }) }.start()
    }
  }

  /// One conversation after the other, each from a seed of its own.
  private static func converse(_ path: String, _ next: Lock<UInt64>, until end: Date) throws {
    while Date() < end {
      let seed = next.withLock { next in
        next += 1
        return next - 1
      }
      var random = SeededRandom(seed: seed)
      var bytes = FuzzConversation.make(&random)
      FuzzConversation.mutate(&bytes, &random)
      let client = try BlockingSocket(connectingTo: path)
      let start = Date()
      let isEnded = FuzzConversation.deliver(bytes, to: client, &random, seconds: timeoutSeconds)
      #expect(isEnded, "seed \(seed): the connection didn't end")
      #expect(Date().timeIntervalSince(start) < TimeInterval(timeoutSeconds), "seed \(seed): takes too long")
    }
  }

  // MARK: The client

  /// The same for our client: a sound server's answers, changed on their way.
  @Test func mutatedAnswersNeverTrapOrHangTheClient() async throws {
    try await withWorld { world in
      try world.publish(MemoryDevice(sampleImage(256 << 10)))
      let seed = Lock(Self.firstSeed)
      let path = world.folder.file("proxy")
      let proxy = try Proxy(path, before: world.socketPath) { number in
        // The first connection of a round is sound for a while, so that rounds come past the handshake.
        let seed = seed.withLock { $0 }
        let random = Lock(SeededRandom(seed: seed &* 31 &+ UInt64(number)))
        let soundByteCount = random.withLock { $0.oneIn(3) ? 0 : 150 + $0.below(4000) }
        return Proxy.Harm(changeServer: { bytes, passed in
          guard passed + bytes.count > soundByteCount else { return }
          random.withLock { FuzzConversation.mutateSome(&bytes, from: max(0, soundByteCount - passed), &$0) }
        })
      }
      let uri = try NBDURI("nbd+unix:///disk?socket=\(path)")
      let end = Date().addingTimeInterval(TimeInterval(max(2, Self.seconds / 5)))
      var wellCount = 0
      while Date() < end {
        let round = seed.withLock { $0 }
        var options = Style.allCases[Int(round % 3)].options
        options.connectTimeout = .milliseconds(500)
        options.reconnectTimeout = .milliseconds(300)
        options.answerTimeout = .milliseconds(500)
        let wishes = options
        let start = Date()
        let isWell = try await atHome(world.loops) { home in await Self.use(uri, wishes, on: home, round) }
        if isWell { wellCount += 1 }
        #expect(Date().timeIntervalSince(start) < TimeInterval(Self.timeoutSeconds), "seed \(round): takes too long")
        seed.withLock { $0 += 1 }
      }
      let count = seed.withLock { $0 } - Self.firstSeed
      print("fuzzed \(count) connections of the client from seed \(Self.firstSeed) on; \(wellCount) came up")
      #expect(wellCount > 0)
      withExtendedLifetime(proxy) {}
    }
  }

  /// Does a bit of everything; true if the device could be opened.
  private static func use(_ uri: NBDURI, _ options: NBDDevice.Options, on home: isolated Home, _ seed: UInt64) async
    -> Bool
  {
    guard let device = try? await NBDDevice.open(uri, options, on: home.loop) else { return false }
    var random = SeededRandom(seed: seed)
    // A size that was changed on its way isn't believed too far.
    let byteCount = min(device.byteCount, 256 << 10)
    for _ in 0..<8 where byteCount > 65536 {
      let unit = device.limits.requestAlignment
      let range = random.range(within: byteCount, alignment: unit, maximum: 60_000, near: 4096)
      switch random.below(4) {
      case 0: try? await device.writeBytes(random.bytes(range.count), at: range.lowerBound)
      case 1: _ = try? await device.blockStatus(ByteRange(range), limit: 100)
      case 2: try? await device.writeZeroes(ByteRange(range), options: .mayUnmap)
      default: _ = try? await device.readBytes(range.count, at: range.lowerBound)
      }
    }
    try? await device.close()
    return true
  }
}
