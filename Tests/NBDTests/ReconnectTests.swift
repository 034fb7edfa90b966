import BlockCore
import BlockTesting
import Bytes
import EventLoops
import Foundation
import Locks
import NBD
import Testing

/// A client whose server goes away.
@Suite struct ReconnectTests {
  /// Every write that was answered is there, and none is lost, while the server is taken down again and again.
  @Test(arguments: Style.allCases) func restartsOfTheServerLoseNothing(_ style: Style) async throws {
    let folder = try TemporaryFolder()
    let loops = try EventLoopGroup(count: 2, backend: testBackend, workerCount: 1)
    let device = MemoryDevice(byteCount: 1 << 20)
    let path = folder.file("nbd")
    var options = NBDServerOptions.patient
    options.removalGrace = .milliseconds(20)
    let isDone = Lock(false)
    let export = Lock<NBDExport?>(nil)
    func serve() async throws -> NBDServer {
      let server = NBDServer(loops: loops, options: options, logger: quietLogger)
      let listener = try await server.listen(at: .unix(path: path))
      // The device's loop stays the same, whoever serves it.
      let served = NBDExport(name: "disk", device: device, loop: loops.loops[0])
      try listener.publish(served, isDefault: true)
      export.withLock { $0 = served }
      return server
    }
    var server = try await serve()
    let uri = try NBDURI("nbd+unix:///disk?socket=\(path)")
    let client = Task {
      try await withDevice(uri, style.options, loops) { home, device in
        var random = SeededRandom(seed: 31)
        var model = ByteModel(byteCount: device.byteCount)
        let end = Date().addingTimeInterval(20)
        while !isDone.withLock({ $0 }), Date() < end {
          let range = random.range(within: device.byteCount, alignment: 1, maximum: 50_000, near: 4096)
          let bytes = random.bytes(range.count)
          try await device.writeBytes(bytes, at: range.lowerBound)
          model.write(bytes, at: range.lowerBound)
        }
        try await device.flush()
        try await model.check(device, "\(random)")
        return device.reconnectionCount
      }
    }
    for _ in 0..<4 {
      try await eventually("the client writes") { (export.withLock { $0?.figures[.write].count } ?? 0) > 5 }
      await server.shutdown()
      server = try await serve()
    }
    try await eventually("the client writes") { (export.withLock { $0?.figures[.write].count } ?? 0) > 5 }
    isDone.withLock { $0 = true }
    let reconnections = try await client.value
    #expect(reconnections == 4)
    await server.shutdown()
    await loops.shutdown()
  }

  @Test(.eachToolVersion) func qemuNBDKilledUnderAReconnectingClientLosesNothing() async throws {
    let folder = try TemporaryFolder()
    let path = folder.file("nbd")
    try SparseImage(byteCount: 1 << 20).dump(to: folder.file("disk.raw"))
    let arguments = ["-k", path, "-f", "raw", "-t", "-x", "disk", folder.file("disk.raw")]
    let loops = try EventLoopGroup(count: 1, backend: testBackend, workerCount: 1)
    let first = try await Child.start("qemu-nbd", arguments)
    try await eventually("qemu-nbd listens") {
      FileManager.default.fileExists(atPath: path) && (try? Socket.isAnswered(unixPath: path)) == true
    }
    let isHalfDone = AsyncStream<Void>.makeStream()
    let client = Task {
      try await withDevice(try NBDURI("nbd+unix:///disk?socket=\(path)"), NBDDevice.Options(), loops) { _, device in
        for index in 0..<128 {
          if index == 64 { isHalfDone.continuation.finish() }
          try await device.writeBytes([UInt8](repeating: UInt8(index + 1), count: 8192), at: UInt64(index) * 8192)
        }
        try await device.flush()
        let bytes = try await device.readAll()
        for index in 0..<128 { #expect(bytes[index * 8192 + 17] == UInt8(index + 1)) }
      }
    }
    for await _ in isHalfDone.stream {}
    first.stop()
    unlink(path)
    let second = try await Child.start("qemu-nbd", arguments)
    try await client.value
    second.stop()
    await loops.shutdown()
  }

  @Test func timeoutEnds() async throws {
    try await withWorld { world in
      let device = MemoryDevice(byteCount: 1 << 20)
      let export = try world.publish(device)
      let listener = world.listener
      try await atHome(world.loops) { home in
        var options = NBDDevice.Options()
        options.reconnectTimeout = .milliseconds(200)
        let client = try await NBDDevice.open(try NBDURI(world.uri("disk")), options, on: home.loop)
        #expect(try await client.readBytes(4, at: 0) == [0, 0, 0, 0])
        try await listener.remove(export, .hard(grace: .zero))
        for _ in 0..<2 {
          let error = await #expect(throws: BlockError.self) { try await client.readBytes(4, at: 0) }
          #expect(error?.kind == .io(errno: ENOTCONN), "\(String(describing: error))")
        }
        await #expect(throws: BlockError.self) { try await client.close() }
      }
    }
  }

  @Test func exportThatChangedItsSizeIsNotTheSame() async throws {
    try await withWorld { world in
      let export = try world.publish(MemoryDevice(byteCount: 1 << 20))
      let listener = world.listener
      try await atHome(world.loops) { home in
        let client = try await NBDDevice.open(try NBDURI(world.uri("disk")), on: home.loop)
        try await listener.remove(export, .hard(grace: .zero))
        try world.publish(MemoryDevice(byteCount: 2 << 20))
        let error = await #expect(throws: BlockError.self) { try await client.readBytes(4, at: 0) }
        #expect(error?.kind == .io(errno: ESTALE))
        try? await client.close()
      }
    }
  }
}
