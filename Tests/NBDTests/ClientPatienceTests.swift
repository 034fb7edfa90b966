import BlockCore
import BlockTesting
import EventLoops
import Foundation
import Locks
import NBD
import Testing

/// Our client and servers that are there, but not as they should be: nothing waits for ever, and the error says why.
@Suite struct ClientTimeoutTests {
  // MARK: Silence

  @Test func silentServerFailsRequestsAndIsAskedAnew() async throws {
    try await withStage { stage in
      let server = try ScriptedServer(stage.socketPath) { socket, number in
        // The first connection answers nothing.
        if number == 0 { while !socket.receive().isEmpty {} } else { ScriptedServer.serveRightly(socket) }
      }
      let start = Date()
      try await withDevice(stage, timeout(answer: .milliseconds(400))) { _, device in
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
      try await withDevice(stage, timeout(answer: .milliseconds(800))) { _, device in
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
      try await withDevice(stage, timeout(answer: .milliseconds(1500))) { _, device in
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
      let options = timeout(answer: .seconds(6))
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
      try await withDevice(stage, timeout(answer: .seconds(20))) { home, device in
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
      let options = timeout(reconnect: .seconds(60), answer: .seconds(2))
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
        try await withDevice(stage, timeout(connect: .milliseconds(300))) { _, _ in }
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
      try await withDevice(stage, timeout(reconnect: .milliseconds(600))) { _, device in
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
}
