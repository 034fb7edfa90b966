import BlockCore
import BlockTesting
import EventLoops
import Foundation
import Locks
import NBD
import Testing

/// Our client and servers that are there, but not as they should be: nothing waits for ever, and the error says why.
@Suite struct ClientPatienceTests {
  private struct Stage: Sendable {
    let folder: TemporaryFolder
    let loops: EventLoopGroup
    var socketPath: String { folder.file("server") }
  }

  private func withStage(_ body: (Stage) async throws -> Void) async throws {
    let stage = Stage(
      folder: try TemporaryFolder(), loops: try EventLoopGroup(count: 1, backend: testBackend, workerCount: 1))
    do {
      try await body(stage)
      await stage.loops.shutdown()
    } catch {
      await stage.loops.shutdown()
      throw error
    }
  }

  /// Options with little patience for one thing, and enough for a busy machine with the others.
  private static func patience(
    connect: Duration = .seconds(20), reconnect: Duration = .seconds(20), answer: Duration = .seconds(20)
  ) -> NBDDevice.Options {
    var options = NBDDevice.Options()
    options.connectPatience = connect
    options.reconnectPatience = reconnect
    options.answerPatience = answer
    return options
  }

  /// Runs `body` with the device and closes it, whether or not the server takes the goodbye.
  private func withDevice<Result: Sendable>(
    _ stage: Stage, _ options: NBDDevice.Options = patience(),
    _ body: @Sendable @escaping (isolated Home, NBDDevice) async throws -> Result
  ) async throws -> Result {
    let uri = try NBDURI("nbd+unix:///disk?socket=\(stage.socketPath)")
    return try await atHome(stage.loops) { home in
      let device = try await NBDDevice.open(uri, options, on: home.loop)
      do {
        let result = try await body(home, device)
        try? await device.close()
        return result
      } catch {
        try? await device.close()
        throw error
      }
    }
  }

  // MARK: Silence

  @Test func silentServerFailsRequestsAndIsAskedAnew() async throws {
    try await withStage { stage in
      let server = try ScriptedServer(stage.socketPath) { socket, number in
        // The first connection answers nothing.
        if number == 0 { while !socket.receive().isEmpty {} } else { ScriptedServer.serveRightly(socket) }
      }
      let start = Date()
      try await withDevice(stage, Self.patience(answer: .milliseconds(400))) { _, device in
        let error = await #expect(throws: BlockError.self) { try await device.readBytes(4, at: 0) }
        #expect(error?.kind == .io(errno: ETIMEDOUT))
        #expect(error?.description.contains("didn't answer for 0.4 seconds") == true, "\(String(describing: error))")
        #expect(Date().timeIntervalSince(start) > 0.4)
        let bytes = try await device.readBytes(4, at: 0)
        #expect(bytes == [9, 9, 9, 9])
        #expect(device.reconnectionCount == 1)
      }
      #expect(Date().timeIntervalSince(start) < 10)
      withExtendedLifetime(server) {}
    }
  }

  /// The server may still carry it out, perhaps after a newer one.
  @Test func writeThatASilentServerHasIsNotSentAgain() async throws {
    try await withStage { stage in
      let writeCount = Lock(0)
      let server = try ScriptedServer(stage.socketPath) { socket, number in
        while let request = ScriptedServer.request(socket) {
          if request.type == 1 { writeCount.withLock { $0 += 1 } }
          if number > 0 { socket.send(ScriptedServer.answer(request)) }
        }
      }
      try await withDevice(stage, Self.patience(answer: .milliseconds(800))) { _, device in
        let error = await #expect(throws: BlockError.self) { try await device.writeBytes([1, 2, 3], at: 0) }
        #expect(error?.kind == .io(errno: ETIMEDOUT))
        try await device.flush()
      }
      #expect(writeCount.withLock { $0 } == 1)
      withExtendedLifetime(server) {}
    }
  }

  /// A server may take its time as long as something comes.
  @Test func slowServerIsNotASilentOne() async throws {
    try await withStage { stage in
      let server = try ScriptedServer(stage.socketPath) { socket, _ in
        while let request = ScriptedServer.request(socket) {
          // A byte here and there: over two seconds for the whole of it.
          for byte in ScriptedServer.answer(request) {
            socket.send([byte])
            usleep(25_000)
          }
        }
      }
      try await withDevice(stage, Self.patience(answer: .milliseconds(1500))) { _, device in
        let bytes = try await device.readBytes(64, at: 0)
        #expect(bytes == [UInt8](repeating: 9, count: 64))
        #expect(device.reconnectionCount == 0)
      }
      withExtendedLifetime(server) {}
    }
  }

  @Test func cancelledRequestDoesNotWaitForASilentServer() async throws {
    try await withStage { stage in
      // Read-only, so that closing needs no answer.
      let server = try ScriptedServer(
        stage.socketPath, terms: { _ in ScriptedServer.Terms(flags: 3) },
        serve: { socket, _ in while !socket.receive().isEmpty {} })
      // A quarter of it is left to cancelled ones.
      let options = Self.patience(answer: .seconds(6))
      let start = Date()
      try await withDevice(stage, options) { home, device in
        let reading = Task { try await home.run { _ in try await device.readBytes(4, at: 0) } }
        try await Task.sleep(for: .milliseconds(50))
        reading.cancel()
        let error = await #expect(throws: BlockError.self) { try await reading.value }
        #expect(error?.kind == .cancelled, "\(String(describing: error))")
        #expect(Date().timeIntervalSince(start) < 6)
      }
      withExtendedLifetime(server) {}
    }
  }

  /// Others that wait for the same server are asked for again, unless that could undo something.
  @Test func cancelledRequestTakesNoReadersAlong() async throws {
    try await withStage { stage in
      let requestCount = Lock(0)
      let server = try ScriptedServer(stage.socketPath) { socket, number in
        while let request = ScriptedServer.request(socket) {
          requestCount.withLock { $0 += 1 }
          if number > 0 { socket.send(ScriptedServer.answer(request)) }
        }
      }
      try await withDevice(stage, Self.patience(answer: .seconds(20))) { home, device in
        let reading = Task { try await home.run { _ in try await device.readBytes(4, at: 0) } }
        let writing = Task { try await home.run { _ in try await device.writeBytes([1], at: 8192) } }
        let leaving = Task { try await home.run { _ in try await device.readBytes(4, at: 4096) } }
        try await eventually("all are sent") { requestCount.withLock { $0 } == 3 }
        leaving.cancel()
        let error = await #expect(throws: BlockError.self) { try await leaving.value }
        #expect(error?.kind == .cancelled)
        #expect(try await reading.value == [9, 9, 9, 9])
        let failure = await #expect(throws: BlockError.self) { try await writing.value }
        #expect(failure?.kind == .io(errno: ETIMEDOUT))
        #expect(device.reconnectionCount == 1)
      }
      withExtendedLifetime(server) {}
    }
  }

  @Test func cancelledRequestDoesNotWaitForAServerThatIsAway() async throws {
    try await withStage { stage in
      // Read-only, so that closing needs no answer.
      let server = Lock<ScriptedServer?>(
        try ScriptedServer(
          stage.socketPath, terms: { _ in ScriptedServer.Terms(flags: 3) }, serve: { _, _ in }))
      let options = Self.patience(reconnect: .seconds(60), answer: .seconds(2))
      let start = Date()
      try await withDevice(stage, options) { home, device in
        server.withLock { $0 = nil }
        let reading = Task { try await home.run { _ in try await device.readBytes(4, at: 0) } }
        try await Task.sleep(for: .milliseconds(50))
        reading.cancel()
        let error = await #expect(throws: BlockError.self) { try await reading.value }
        #expect(error?.kind == .cancelled, "\(String(describing: error))")
        #expect(Date().timeIntervalSince(start) < 30)
      }
    }
  }

  /// Cancelling is no error where the server is well: what was asked is done.
  @Test func cancelledRequestOfAWellServerIsCarriedOut() async throws {
    try await withWorld { world in
      var options = MemoryDevice.Options()
      options.answersTryRead = false
      options.interleavingSeed = 8
      let disk = MemoryDevice(byteCount: 1 << 20, options: options)
      try world.publish(disk)
      try await world.withClient("disk") { home, device in
        for index in 0..<50 {
          let writing = Task {
            try await home.run { _ in try await device.writeBytes([UInt8(index), 1], at: UInt64(index) * 512) }
          }
          writing.cancel()
          try await writing.value
          #expect(try await device.readBytes(2, at: UInt64(index) * 512) == [UInt8(index), 1])
        }
        #expect(device.reconnectionCount == 0)
      }
    }
  }

  // MARK: Coming up

  @Test(arguments: ["a listener that accepts nobody", "a server that doesn't greet", "a server that stops half way"])
  func openingEndsInTime(_ kind: String) async throws {
    try await withStage { stage in
      let backlogFillers = Lock<[BlockingSocket]>([])
      let listener: BlockingListener
      switch kind {
      case "a listener that accepts nobody":
        listener = try BlockingListener(stage.socketPath, backlog: 0, serve: nil)
        let first = try BlockingSocket(connectingTo: stage.socketPath)
        backlogFillers.withLock { $0.append(first) }
      case "a server that doesn't greet":
        listener = try BlockingListener(stage.socketPath) { socket, _ in while !socket.receive().isEmpty {} }
      default:
        listener = try BlockingListener(stage.socketPath) { socket, _ in
          socket.send(Array("NBDMAGICIHAVEOPT".utf8) + [0, 3] + big(UInt32(0x3e889)))
          while !socket.receive().isEmpty {}
        }
      }
      let start = Date()
      let error = await #expect(throws: BlockError.self) {
        try await withDevice(stage, Self.patience(connect: .milliseconds(300))) { _, _ in }
      }
      #expect(error?.kind == .io(errno: ETIMEDOUT), "\(String(describing: error))")
      #expect(error?.description.contains("didn't answer within 0.3 seconds") == true)
      #expect(Date().timeIntervalSince(start) < 10)
      withExtendedLifetime((listener, backlogFillers)) {}
    }
  }

  /// Coming up only to leave again is no coming back.
  @Test func serverThatLeavesAgainAndAgainIsGone() async throws {
    try await withStage { stage in
      let connectionCount = Lock(0)
      let server = try ScriptedServer(stage.socketPath) { _, _ in connectionCount.withLock { $0 += 1 } }
      try await withDevice(stage, Self.patience(reconnect: .milliseconds(600))) { _, device in
        try await Task.sleep(for: .milliseconds(1500))
        // 50, 100, 200, 400 ms of rest and then no more.
        let count = connectionCount.withLock { $0 }
        #expect(count > 1 && count < 8, "\(count)")
        let error = await #expect(throws: BlockError.self) { try await device.readBytes(4, at: 0) }
        #expect(error?.kind == .io(errno: ENOTCONN), "\(String(describing: error))")
      }
      withExtendedLifetime(server) {}
    }
  }

  // MARK: Coming back as somebody else

  @Test func contextsMayHaveOtherNumbersAfterReconnecting() async throws {
    try await withStage { stage in
      let server = try ScriptedServer(
        stage.socketPath,
        terms: { number in
          var terms = ScriptedServer.Terms()
          terms.contextID = 10 + UInt32(number)
          return terms
        },
        serve: { socket, number in
          if number == 0 {
            // Leaves with the request unanswered.
            _ = ScriptedServer.request(socket)
          } else {
            ScriptedServer.serveRightly(socket, contextID: 10 + UInt32(number))
          }
        })
      try await withDevice(stage) { _, device in
        let range = ByteRange(offset: 0, length: 4096)
        let extents = try await device.blockStatus(range, limit: 4)
        #expect(extents == [Extent(range: range, status: [], depth: 1)])
        #expect(device.reconnectionCount == 1)
      }
      withExtendedLifetime(server) {}
    }
  }

  @Test(arguments: [
    "smaller", "larger", "read-only", "without FLUSH", "without contexts", "without structured replies",
  ])
  func exportThatChangedIsNotTheSame(_ change: String) async throws {
    try await withStage { stage in
      let server = try ScriptedServer(
        stage.socketPath,
        terms: { number in
          var terms = ScriptedServer.Terms()
          guard number > 0 else { return terms }
          switch change {
          case "smaller": terms.byteCount /= 2
          case "larger": terms.byteCount *= 2
          case "read-only": terms.flags |= 2
          case "without FLUSH": terms.flags &= ~4
          case "without contexts": terms.contextID = nil
          default: terms.isStructured = false
          }
          return terms
        },
        serve: { socket, number in
          if number == 0 { _ = ScriptedServer.request(socket) } else { ScriptedServer.serveRightly(socket) }
        })
      try await withDevice(stage) { _, device in
        for _ in 0..<2 {
          let error = await #expect(throws: BlockError.self) { try await device.readBytes(4, at: 0) }
          #expect(error?.kind == .io(errno: ESTALE), "\(String(describing: error))")
          #expect(error?.description.contains("isn't the same any more: ") == true)
        }
      }
      withExtendedLifetime(server) {}
    }
  }

  // MARK: Nonsense

  /// Answers that break the protocol, and the request that they are given to.
  static let nonsense: [(name: String, type: UInt16, answer: @Sendable (ScriptedServer.Request) -> [UInt8])] = [
    ("no magic", 0, { _ in [UInt8](repeating: 0x33, count: 64) }),
    ("an unknown cookie", 0, { big(UInt32(0x668e_33ef)) + [0, 1, 0, 0] + $0.cookie.reversed() + big(UInt32(0)) }),
    ("a simple reply to a structured READ", 0, { ScriptedServer.simple($0) }),
    ("data outside of the request", 0, { ScriptedServer.chunk($0, type: 1, big($0.offset + 1) + [1, 2, 3, 4]) }),
    ("data from before it", 0, { ScriptedServer.chunk($0, type: 1, big(UInt64.max) + [1, 2, 3, 4]) }),
    ("too little data", 0, { ScriptedServer.chunk($0, type: 1, big($0.offset) + [1]) }),
    (
      "data twice", 0,
      { request in
        let part = ScriptedServer.chunk(request, type: 1, isLast: false, big(request.offset) + [1, 2, 3, 4])
        return part + part
      }
    ),
    ("a data chunk without data", 0, { ScriptedServer.chunk($0, type: 1, big($0.offset)) }),
    ("a hole longer than the request", 0, { ScriptedServer.chunk($0, type: 2, big($0.offset) + big(UInt32.max)) }),
    (
      "a chunk that is far too long", 0,
      {
        big(UInt32(0x668e_33ef)) + [0, 1, 0, 1] + $0.cookie + big(UInt32.max)
      }
    ),
    ("NONE with a payload", 0, { ScriptedServer.chunk($0, type: 0, [1]) }),
    ("an error without an error", 0, { ScriptedServer.chunk($0, type: 0x8001, [0, 0, 0, 0, 0, 0]) }),
    ("an error that is cut short", 0, { ScriptedServer.chunk($0, type: 0x8001, [0, 0, 0, 5, 0, 9, 65]) }),
    ("a chunk of unknown type", 0, { ScriptedServer.chunk($0, type: 77, [1, 2, 3]) }),
    ("success for nothing", 0, { ScriptedServer.chunk($0, type: 0, []) }),
    ("a status to a READ", 0, { ScriptedServer.chunk($0, type: 5, big(UInt32(1)) + big(UInt32(4)) + big(UInt32(0))) }),
    ("data to a status", 7, { ScriptedServer.chunk($0, type: 1, big($0.offset) + [1, 2, 3, 4]) }),
    (
      "a status of another context", 7,
      {
        ScriptedServer.chunk($0, type: 5, big(UInt32(2)) + big(UInt32(4)) + big(UInt32(0)))
      }
    ),
    ("a status of no extent", 7, { ScriptedServer.chunk($0, type: 5, big(UInt32(1))) }),
    ("an extent of no length", 7, { ScriptedServer.chunk($0, type: 5, big(UInt32(1)) + big(UInt64(0))) }),
    ("no status at all", 7, { ScriptedServer.chunk($0, type: 0, []) }),
  ]

  @Test(arguments: nonsense.indices) func nonsenseFailsAllRequests(_ index: Int) async throws {
    let (name, type, answer) = Self.nonsense[index]
    try await withStage { stage in
      let server = try ScriptedServer(stage.socketPath) { socket, _ in
        while let request = ScriptedServer.request(socket) {
          socket.send(request.type == type ? answer(request) : ScriptedServer.answer(request))
        }
      }
      try await withDevice(stage) { _, device in
        let error = await #expect(throws: BlockError.self, "\(name)") {
          if type == 7 {
            _ = try await device.blockStatus(ByteRange(offset: 8192, length: 4096), limit: 4)
          } else {
            _ = try await device.readBytes(4, at: 8192)
          }
        }
        #expect(error?.kind == .io(errno: EPROTO), "\(name): \(String(describing: error))")
      }
      withExtendedLifetime(server) {}
    }
  }

  /// An answer that ends in the middle is a broken connection: the request is sent again.
  @Test func answerThatIsCutIsAskedForAgain() async throws {
    try await withStage { stage in
      let server = try ScriptedServer(stage.socketPath) { socket, number in
        while let request = ScriptedServer.request(socket) {
          let answer = ScriptedServer.answer(request)
          socket.send(number < answer.count / 8 ? Array(answer.prefix(number * 8)) : answer)
          if number < answer.count / 8 { return }
        }
      }
      try await withDevice(stage) { _, device in
        let bytes = try await device.readBytes(16, at: 0)
        #expect(bytes == [UInt8](repeating: 9, count: 16))
        #expect(device.reconnectionCount > 3)
      }
      withExtendedLifetime(server) {}
    }
  }
}
