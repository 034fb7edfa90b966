import BlockCore
import BlockTesting
import EventLoops
import Foundation
import NBD
import Testing

/// Our client against the servers that people have.
@Suite struct PeerTests {
  /// Runs `body` with a client of the peer.
  private func withPeer<Result: Sendable>(
    _ peer: Peer, _ name: String = "", _ options: NBDDevice.Options = NBDDevice.Options(),
    _ body: @Sendable @escaping (isolated Home, NBDDevice) async throws -> Result
  ) async throws -> Result {
    let loops = try EventLoopGroup(count: 1, backend: testBackend, workerCount: 1)
    do {
      let result = try await withDevice(try peer.uri(name), options, loops, body)
      await loops.shutdown()
      return result
    } catch {
      await loops.shutdown()
      throw error
    }
  }

  /// Seeded changes through the client, checked against a model of the bytes.
  nonisolated(nonsending)
    private static func story(_ device: NBDDevice, seed: UInt64, rounds: Int) async throws
  {
    var random = SeededRandom(seed: seed)
    var model = ByteModel(byteCount: device.byteCount)
    model.write(try await device.readAll(), at: 0)
    for round in 0..<TestEffort.rounds(rounds) {
      let range = ByteRange(
        random.range(
          within: device.byteCount, alignment: max(512, device.limits.requestAlignment), maximum: 100_000, near: 65536))
      switch random.below(4) {
      case 0, 1:
        let bytes = random.bytes(Int(range.length))
        try await device.writeBytes(bytes, at: range.offset, options: random.oneIn(5) ? .forceUnitAccess : [])
        model.write(bytes, at: range.offset)
      case 2:
        try await device.writeZeroes(range, options: random.oneIn(2) ? .mayUnmap : [])
        model.zero(range)
      default: try await device.flush()
      }
      if round % 10 == 9 { try await model.check(device, "\(random), round \(round)") }
    }
    var offset: UInt64 = 0
    for extent in try await device.wholeStatus(ByteRange(offset: 0, length: device.byteCount)) {
      #expect(extent.range.offset == offset)
      offset = extent.range.end
      if extent.readsAsZero {
        let bytes = try await device.readBytes(Int(extent.range.length), at: extent.range.offset)
        #expect(bytes.allSatisfy { $0 == 0 }, "\(random): \(extent)")
      }
    }
    #expect(offset == device.byteCount)
  }

  @Test(.eachToolVersion, arguments: Style.allCases) func qemuNBDKeepsWhatWeWrite(_ style: Style) async throws {
    let folder = try TemporaryFolder()
    try sampleImage(2 << 20).dump(to: folder.file("disk.raw"))
    let peer = try await Peer(
      "qemu-nbd", ["-k", "SOCKET", "-f", "raw", "-t", "-e", "4", "-A", "-x", "disk", folder.file("disk.raw")])
    var options = style.options
    options.connectionCount = 3
    try await withPeer(peer, "disk", options) { _, device in
      // Older versions don't know extended headers: the client makes do.
      let knowsAll = ToolVersion.current == .newest
      #expect(device.agreement.style == (style == .extended && !knowsAll ? .structured : style.headers))
      try await Self.story(device, seed: 21, rounds: 60)
    }
  }

  @Test(.eachToolVersion) func qemuStorageDaemonKeepsWhatWeWrite() async throws {
    let folder = try TemporaryFolder()
    try await Tool.check("qemu-img", ["create", "-q", "-f", "qcow2", folder.file("disk.qcow2"), "2M"])
    let peer = try await Peer(
      "qemu-storage-daemon",
      [
        "--blockdev", "driver=file,node-name=file,filename=\(folder.file("disk.qcow2"))", "--blockdev",
        "driver=qcow2,node-name=disk,file=file", "--nbd-server", "addr.type=unix,addr.path=SOCKET", "--export",
        "type=nbd,id=e,node-name=disk,name=disk,writable=on,allocation-depth=on",
      ])
    try await withPeer(peer, "disk", Style.structured.options) { _, device in
      try await Self.story(device, seed: 22, rounds: 60)
    }
    peer.stop()
    try await Tool.check("qemu-img", ["check", folder.file("disk.qcow2")])
  }

  @Test(.eachToolVersion) func qemuDirtyBitmapIsRead() async throws {
    let folder = try TemporaryFolder()
    let disk = folder.file("disk.qcow2")
    try await Tool.check("qemu-img", ["create", "-q", "-f", "qcow2", disk, "1M"])
    try await Tool.check("qemu-img", ["bitmap", "--add", "-g", "64k", disk, "monday"])
    try await Tool.check("qemu-io", ["-c", "write 128k 64k", disk])
    let peer = try await Peer("qemu-nbd", ["-k", "SOCKET", "-f", "qcow2", "-t", "-r", "-B", "monday", disk])
    var options = NBDDevice.Options()
    options.contexts = ["base:allocation", "qemu:dirty-bitmap:monday"]
    try await withPeer(peer, "", options) { _, device in
      #expect(device.isReadOnly)
      let extents = try await device.contextExtents(
        of: ["qemu:dirty-bitmap:monday"], in: ByteRange(offset: 0, length: 1 << 20), limit: 16)
      #expect(
        extents["qemu:dirty-bitmap:monday"] == [
          .init(length: 128 << 10, flags: 0), .init(length: 64 << 10, flags: 1), .init(length: 832 << 10, flags: 0),
        ])
    }
  }

  @Test func delayedAnswersComeOutOfOrderAndAllArrive() async throws {
    let peer = try await Peer(
      "nbdkit", ["-f", "-U", "SOCKET", "--filter=delay", "memory", "1M", "delay-read=5ms", "delay-write=10ms"])
    try await withPeer(peer) { home, device in
      try await withThrowingTaskGroup(of: Void.self) { group in
        for index in 0..<32 {
          group.addTask {
            try await home.run { _ in
              let bytes = [UInt8](repeating: UInt8(index + 1), count: 8192)
              try await device.writeBytes(bytes, at: UInt64(index) * 8192)
              let found = try await device.readBytes(8192, at: UInt64(index) * 8192)
              #expect(found == bytes)
            }
          }
        }
        try await group.waitForAll()
      }
    }
  }

  @Test func errorsOfAServerFailRequestsAndNotTheConnection() async throws {
    let peer = try await Peer(
      "nbdkit",
      ["-f", "-U", "SOCKET", "--filter=error", "memory", "1M", "error-pwrite=ENOSPC", "error-pwrite-rate=50%"])
    try await withPeer(peer) { _, device in
      var outcomes: Set<String> = []
      for index in 0..<TestEffort.rounds(60) {
        let bytes = [UInt8](repeating: UInt8(index % 251), count: 4096)
        do {
          try await device.writeBytes(bytes, at: 0)
          #expect(try await device.readBytes(4096, at: 0) == bytes)
          outcomes.insert("done")
        } catch let error as BlockError {
          #expect(error.kind == .noSpace)
          outcomes.insert("refused")
        }
      }
      #expect(outcomes == ["done", "refused"])
      #expect(device.reconnectionCount == 0)
    }
  }

  /// What a server refuses, it refuses for that request only, whatever kind it is and whatever the error.
  @Test(arguments: [
    ("pread", "EIO"), ("pwrite", "EPERM"), ("zero", "ENOSPC"), ("trim", "EIO"), ("extents", "EIO"),
  ])
  func refusalsOfAnyKindArePassedOn(_ request: String, _ error: String) async throws {
    let peer = try await Peer(
      "nbdkit",
      [
        "-f", "-U", "SOCKET", "--filter=error", "memory", "1M", "error-\(request)=\(error)",
        "error-\(request)-rate=50%",
      ])
    try await withPeer(peer, "", Style.structured.options) { _, device in
      let range = ByteRange(offset: 4096, length: 8192)
      var refusedCount = 0
      for round in 0..<40 {
        do {
          try await device.writeBytes([UInt8](repeating: UInt8(round), count: 8192), at: 4096)
          let bytes = try await device.readBytes(8192, at: 4096)
          #expect(bytes == [UInt8](repeating: UInt8(round), count: 8192))
          _ = try await device.blockStatus(range, limit: 4)
          try await device.writeZeroes(range, options: .mayUnmap)
          try await device.discard(range)
        } catch let failure as BlockError {
          refusedCount += 1
          let kind: BlockError.Kind =
            switch error {
            case "EPERM": .readOnly
            case "ENOSPC": .noSpace
            default: .io(errno: EIO)
            }
          #expect(failure.kind == kind, "\(failure)")
        }
      }
      #expect(refusedCount > 0 && refusedCount < 40)
      #expect(device.reconnectionCount == 0)
    }
  }

  @Test func requestsKeepToTheSizesOfTheServer() async throws {
    let peer = try await Peer(
      "nbdkit",
      [
        "-f", "-U", "SOCKET", "--filter=blocksize-policy", "memory", "2M", "blocksize-minimum=4096",
        "blocksize-preferred=64K", "blocksize-maximum=128K", "blocksize-error-policy=error",
      ])
    try await withPeer(peer) { _, device in
      #expect(device.limits.requestAlignment == 4096)
      #expect(device.limits.preferredByteCount == 65536)
      var random = SeededRandom(seed: 3)
      let bytes = random.bytes(1 << 20)
      try await device.writeBytes(bytes, at: 4096)
      #expect(try await device.readBytes(1 << 20, at: 4096) == bytes)
      await #expect(throws: BlockError.self) { try await device.writeBytes([1], at: 5) }
    }
  }

  @Test func serverWithoutExtentsIsAllData() async throws {
    let peer = try await Peer("nbdkit", ["-f", "-U", "SOCKET", "--filter=noextents", "memory", "1M"])
    try await withPeer(peer) { _, device in
      let range = ByteRange(offset: 0, length: 1 << 20)
      #expect(try await device.wholeStatus(range) == [Extent(range: range, status: [], depth: 1)])
      try await Self.story(device, seed: 23, rounds: 30)
    }
  }

  @Test func serverWithoutZeroesGetsThemAsData() async throws {
    let peer = try await Peer(
      "nbdkit", ["-f", "-U", "SOCKET", "--filter=nozero", "--filter=fua", "memory", "1M", "fuamode=discard"])
    try await withPeer(peer) { _, device in
      #expect(!device.agreement.flags.contains(.sendWriteZeroes))
      let error = await #expect(throws: BlockError.self) {
        try await device.writeZeroes(ByteRange(offset: 0, length: 4096), options: .onlyIfFast)
      }
      #expect(error?.kind == .notFast)
      try await Self.story(device, seed: 24, rounds: 30)
    }
  }
}
