import BlockCore
import BlockTesting
import EventLoops
import Foundation
import NBD
import Testing

/// Clients that come and go, and exports that are taken away.
@Suite struct LifeTests {
  @Test func tooManyConnectionsAreTurnedAway() async throws {
    var options = NBDServerOptions.patient
    options.maximumConnectionCount = 3
    try await withWorld(options) { world in
      try world.publish(MemoryDevice(byteCount: 1 << 20))
      let path = world.socketPath
      try await RawClient.with(path) { first in
        try first.enter()
        let others = try (0..<2).map { _ in try RawClient(path) }
        for other in others { try other.enter() }
        let late = try RawClient(path)
        #expect(late.isEnded)
        try first.expectAlive()
      }
      try await eventually("all are gone") { world.server.connectionCount == 0 }
      try await RawClient.with(path) { try $0.enter() }
    }
  }

  /// However many requests a client sends at once, so many wait for the device and no more; the rest stays outside.
  @Test(arguments: [(512, 16), (100_000, 2), (300_000, 1)])
  func requestsInFlightAreBounded(_ byteCount: Int, _ bound: Int) async throws {
    var options = NBDServerOptions.patient
    options.maximumRequestCount = 16
    options.maximumWriteByteCount = 256 << 10
    try await withWorld(options) { world in
      let requestCount = 60
      let device = GateDevice(MemoryDevice(byteCount: 1 << 20), stops: Set(1...requestCount))
      try world.publish(device)
      try world.publishForBystanders()
      let path = world.socketPath
      async let answered = RawClient.with(path) { client in
        try client.enter()
        let data = [UInt8](repeating: 1, count: byteCount)
        for _ in 0..<requestCount { try client.request(1, length: UInt32(byteCount), data) }
        for _ in 0..<requestCount { #expect(try client.simpleReply() == 0) }
        return true
      }
      var most = 0
      for _ in 0..<requestCount where most < requestCount {
        try await eventually("requests come to the device") { device.heldCount == bound || device.isThrough }
        // More would have come by now.
        try await Task.sleep(for: .milliseconds(5))
        most = max(most, device.heldCount)
        // What is received, two batches of replies, the payloads, and one bystander who has the same.
        #expect(world.server.lentByteCount < 2 * (1 << 20) + (256 << 10) + 2 * byteCount)
        if device.isThrough { break }
        device.open()
      }
      #expect(most == bound)
      try await Bystander.watch(world) { () throws in }
      while !device.isThrough || device.heldCount > 0 {
        device.open()
        try await Task.sleep(for: .milliseconds(1))
      }
      #expect(try await answered)
    }
  }

  @Test func safeRemovalWaitsForNobodyAndRefusesWhileInUse() async throws {
    try await withWorld { world in
      let export = try world.publish(MemoryDevice(byteCount: 1 << 20))
      let listener = world.listener
      try await world.withClient("disk") { _, device in
        // Once something was answered, the client is surely counted.
        _ = try await device.readBytes(2, at: 0)
        let refusal = await #expect(throws: NBDExport.InUse.self) { try await listener.remove(export, .safe) }
        #expect(refusal?.clientCount == 1)
        let bytes = try await device.readBytes(2, at: 0)
        #expect(bytes == [0, 0])
      }
      try await eventually("the client is gone") { export.figures.clientCount == 0 }
      try await listener.remove(export, .safe)
      #expect(listener.exports.isEmpty)
      await #expect(throws: BlockError.self) { try await world.withClient("disk") { _, _ in } }
    }
  }

  @Test func hardRemovalLetsRequestsInFlightEnd() async throws {
    try await withWorld { world in
      var options = MemoryDevice.Options()
      options.interleavingSeed = 4
      let device = MemoryDevice(byteCount: 1 << 20, options: options)
      let export = try world.publish(device)
      let path = world.socketPath
      async let outcome = RawClient.with(path) { client -> Int in
        try client.enter()
        var answered = 0
        for round in 0..<100_000 {
          do {
            try client.request(1, cookie: UInt64(round), length: 512, [UInt8](repeating: 1, count: 512))
          } catch { break }
          let header = try client.receive(16)
          if header.count < 16 { break }
          answered += 1
        }
        return answered
      }
      try await eventually("requests are answered") { export.figures[.write].count > 20 }
      try await world.listener.remove(export, .hard(grace: .seconds(2)))
      #expect(export.figures.clientCount == 0)
      let answered = try await outcome
      // Every write that the device saw was answered, but perhaps the last.
      #expect(device.calls[.write] - answered <= 1)
    }
  }

  /// Who comes while an export waits for its last requests hears why there is nothing for him.
  @Test func whoAsksForAnExportThatIsBeingRemovedHearsSo() async throws {
    try await withWorld { world in
      let device = GateDevice(MemoryDevice(byteCount: 1 << 20), stops: [1])
      let export = try world.publish(device)
      let path = world.socketPath
      async let last: UInt32? = RawClient.with(path) { client in
        try client.enter()
        try client.request(1, length: 512, [UInt8](repeating: 1, count: 512))
        return try client.simpleReply()
      }
      for await _ in device.stopped {}
      async let removal: Void = world.listener.remove(export, .hard(grace: .seconds(20)))
      try await Task.sleep(for: .milliseconds(100))
      try await RawClient.with(path) { client in
        try client.greet()
        for option: UInt32 in [6, 7] {
          try client.option(option, RawClient.goPayload("disk"))
          #expect(try client.optionReplies() == [1 << 31 | 7])
        }
        try client.option(1, Array("disk".utf8))
        #expect(client.isEnded)
      }
      device.open()
      try await removal
      #expect(try await last == 0)
    }
  }

  @Test func figuresTellWhatHappened() async throws {
    try await withWorld { world in
      let export = try world.publish(MemoryDevice(byteCount: 1 << 20))
      try await world.withClient("disk") { _, device in
        for index in 0..<10 {
          try await device.writeBytes([UInt8](repeating: 1, count: 4096), at: UInt64(index) * 4096)
        }
        _ = try await device.readBytes(40960, at: 0)
        try await device.flush()
      }
      let figures = export.figures
      #expect(figures[.write].count == 10 && figures[.write].byteCount == 40960)
      #expect(figures[.read].count == 1 && figures[.read].byteCount == 40960)
      #expect(figures[.flush].count >= 1)
      #expect(figures[.write].latency.count == 10)
      let median = try #require(figures[.write].latency.microseconds(share: 0.5))
      let worst = try #require(figures[.write].latency.microseconds(share: 1))
      #expect(median > 0 && median <= worst)
      #expect(figures[.other].latency.microseconds(share: 0.5) == nil || figures[.other].count > 0)
    }
  }

  @Test func abandonedSocketFileIsReplacedAndAnotherServersIsNot() async throws {
    let folder = try TemporaryFolder()
    let path = folder.file("nbd")
    let loops = try EventLoopGroup(count: 1, backend: testBackend, workerCount: 1)
    let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8) }
    withUnsafePointer(to: &address) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        #expect(bind(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size)) == 0)
      }
    }
    close(descriptor)
    let first = NBDServer(loops: loops, logger: quietLogger)
    _ = try await first.listen(at: .unix(path: path), file: SocketFileAccess(mode: 0o600))
    var status = stat()
    #expect(stat(path, &status) == 0 && status.st_mode & 0o777 == 0o600)
    let second = NBDServer(loops: loops, logger: quietLogger)
    await #expect(throws: SystemError.self) { _ = try await second.listen(at: .unix(path: path)) }
    #expect(FileManager.default.fileExists(atPath: path))
    await second.shutdown()
    await first.shutdown()
    #expect(!FileManager.default.fileExists(atPath: path))
    await loops.shutdown()
  }
}
