import BlockCore
import BlockTesting
import EventLoops
import Foundation
import Locks
import NBD
import Testing

/// QEMU as a client with `reconnect-delay`, as a guest's disk has it, while our server goes away and comes back: no
/// request of the guest fails, and nothing that was answered is lost.
@Suite(.eachToolVersion) struct GuestReconnectTests {
  /// A device and the socket at which one server after the other serves it. Some writes are held until their server is
  /// on its way down: they are carried out and never answered.
  private final class Disk: Sendable {
    let memory: MemoryDevice
    private let gate: GateDevice
    private let folder: TemporaryFolder
    private let loops: EventLoopGroup
    private let server = Lock<NBDServer?>(nil)

    var socketPath: String { folder.file("nbd") }

    /// - Parameter stops: the writes at which the server goes down, counted from 1.
    init(stops: Set<Int>) async throws {
      folder = try TemporaryFolder()
      loops = try EventLoopGroup(count: 2, backend: testBackend, workerCount: 1)
      memory = MemoryDevice(byteCount: 4 << 20)
      gate = GateDevice(memory, stops: stops)
      try await serve()
    }

    private func serve() async throws {
      var options = NBDServerOptions.patient
      // Cut in mid-request.
      options.removalGrace = .zero
      let new = NBDServer(loops: loops, options: options, logger: quietLogger)
      // The device's loop stays the same, whoever serves it.
      let export = NBDExport(name: "disk", device: gate, loop: loops.loops[0])
      _ = try await new.listen(at: .unix(path: socketPath), publishing: [export])
      server.withLock { $0 = new }
    }

    /// The client has ended: no further stop comes.
    func endStops() { gate.end() }

    /// At each stop takes the server away, and brings another one after a while; says how often.
    func restartAtStops() async throws -> Int {
      var count = 0
      for await _ in gate.stopped {
        count += 1
        let old = server.withLock { $0 }
        let phase = Lock((hasBegun: false, isOver: false))
        Task {
          phase.withLock { $0.hasBegun = true }
          await old?.shutdown()
          phase.withLock { $0.isOver = true }
        }
        try await eventually(within: 30, "the server is on its way down") { phase.withLock { $0.hasBegun } }
        try await Task.sleep(for: .milliseconds(50))
        // A busy machine may have let the client run on to the next stop.
        try await eventually(within: 30, "the server is down") {
          gate.open()
          return phase.withLock { $0.isOver }
        }
        try await Task.sleep(for: .milliseconds(250))
        try await serve()
      }
      return count
    }

    func end() async {
      await server.withLock { $0 }?.shutdown()
      await loops.shutdown()
    }
  }

  private static func options(_ disk: Disk) -> String {
    "driver=nbd,server.type=unix,server.path=\(disk.socketPath),export=disk,reconnect-delay=60"
  }

  @Test func qemuIOSurvivesRestartsOfTheServer() async throws {
    let disk = try await Disk(stops: [40, 100, 200])
    let blockCount = 250
    var commands: [String] = []
    for index in 0..<blockCount {
      commands.append("write -P \(index % 255 + 1) \(index * 8192) 8192")
      if index % 16 == 15 { commands.append("flush") }
    }
    for index in 0..<blockCount { commands.append("read -P \(index % 255 + 1) \(index * 8192) 8192") }
    let arguments = ["--image-opts", Self.options(disk)] + commands.flatMap { ["-c", $0] }
    let work = Task {
      defer { disk.endStops() }
      return try await Tool.check("qemu-io", arguments, seconds: 120)
    }
    #expect(try await disk.restartAtStops() == 3)
    let text = try await work.value
    #expect(!text.contains("failed"), "\(text)")
    #expect(text.components(separatedBy: "wrote 8192/8192").count == blockCount + 1)
    await disk.end()
    let bytes = try await disk.memory.readBytes(blockCount * 8192, at: 0)
    for index in 0..<blockCount { #expect(bytes[index * 8192 + 4000] == UInt8(index % 255 + 1)) }
  }

  /// A daemon of QEMU's holds the disk and serves it on; behind it fio writes and verifies, many requests in flight.
  @Test func qemuStorageDaemonSurvivesRestartsOfTheServer() async throws {
    let disk = try await Disk(stops: [200, 500, 800, 1100])
    let daemon = try await Peer(
      "qemu-storage-daemon",
      [
        "--blockdev", Self.options(disk) + ",node-name=disk", "--nbd-server", "addr.type=unix,addr.path=SOCKET",
        "--export", "type=nbd,id=e,node-name=disk,name=guest,writable=on",
      ])
    let uri = "nbd+unix:///guest?socket=\(daemon.socketPath)"
    let work = Task {
      defer { disk.endStops() }
      return try await Tool.check(
        "fio",
        [
          "--name=guest", "--ioengine=nbd", "--uri=\(uri)", "--rw=randrw", "--bs=4k", "--iodepth=16",
          "--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0", "--size=4M", "--io_size=16M", "--minimal",
        ], seconds: 120)
    }
    // Two stops may fall into one restart.
    #expect(try await disk.restartAtStops() > 1)
    _ = try await work.value
    daemon.stop()
    await disk.end()
  }
}
