import BlockCore
import BlockTesting
import EventLoops
import Foundation
import NBD
import Testing

/// The server as the tools that people use see it.
@Suite struct ToolTests {
  @Test(.eachToolVersion) func nbdinfoTellsWhatAnExportIs() async throws {
    try await withWorld { world in
      var options = NBDExport.Options()
      options.description = "the first disk"
      var limits = BlockLimits()
      limits.requestAlignment = 512
      limits.preferredByteCount = 65536
      var deviceOptions = MemoryDevice.Options()
      deviceOptions.limits = limits
      try world.publish(MemoryDevice(byteCount: 1 << 20, options: deviceOptions), options: options)
      try world.publish(MemoryDevice(byteCount: 2 << 20), as: "second", isDefault: false)
      let json = try #require(
        try await Tool.json("nbdinfo", ["--json", "--list", world.uri()]) as? [String: Any])
      #expect(json["protocol"] as? String == "newstyle-fixed")
      #expect(json["structured"] as? Bool == true)
      let exports = try #require(json["exports"] as? [[String: Any]])
      #expect(exports.map { $0["export-name"] as? String } == ["disk", "second"])
      let first = try #require(exports.first)
      #expect(first["description"] as? String == "the first disk")
      #expect(first["contexts"] as? [String] == ["base:allocation", "qemu:allocation-depth"])
      #expect(first["export-size"] as? Int == 1 << 20)
      #expect(first["is_read_only"] as? Bool == false)
      for ability in [
        "can_cache", "can_df", "can_fast_zero", "can_flush", "can_fua", "can_multi_conn", "can_trim", "can_zero",
      ] {
        #expect(first[ability] as? Bool == true, "\(ability)")
      }
      // The device's own is 512.
      #expect(first["block_size_minimum"] as? Int == 1)
      #expect(first["block_size_preferred"] as? Int == 65536)
      #expect(first["block_size_maximum"] as? Int == 32 << 20)
    }
  }

  @Test(.eachToolVersion) func nbdinfoMapsEveryContext() async throws {
    try await withWorld { world in
      var image = SparseImage(byteCount: 1 << 20)
      image.write([UInt8](repeating: 1, count: 8192).span.bytes, at: 65536)
      image.zero(ByteRange(offset: 131072, length: 4096), unmap: false)
      var options = NBDExport.Options()
      options.contexts.append(EvenBlocks())
      try world.publish(MemoryDevice(image), options: options)
      let map = try await Tool.json("nbdinfo", ["--json", "--map", world.uri()])
      #expect(
        Self.extents(map) == [
          [0, 65536, 3], [65536, 8192, 0], [73728, 57344, 3], [131072, 4096, 2], [135168, 913408, 3],
        ])
      let depth = try await Tool.json("nbdinfo", ["--json", "--map=qemu:allocation-depth", world.uri()])
      #expect(
        Self.extents(depth) == [
          [0, 65536, 0], [65536, 8192, 1], [73728, 57344, 0], [131072, 4096, 1], [135168, 913408, 0],
        ])
      let dirty = try #require(
        try await Tool.json("nbdinfo", ["--json", "--map=qemu:dirty-bitmap:even", world.uri()]) as? [[String: Any]])
      #expect(dirty.count == 16)
    }
  }

  private static func extents(_ json: Any) -> [[Int]] {
    (json as? [[String: Any]] ?? []).map { [$0["offset"], $0["length"], $0["type"]].compactMap { $0 as? Int } }
  }

  @Test(.eachToolVersion, arguments: [1, 4]) func nbdcopyBringsAnImageOutAndIn(_ connections: Int) async throws {
    let image = sampleImage(12 << 20)
    try await withWorld { world in
      let source = MemoryDevice(image)
      let target = MemoryDevice(byteCount: 12 << 20)
      let first = try world.publish(source, as: "source")
      try world.publish(target, as: "target", isDefault: false)
      let file = world.folder.file("copy.raw")
      let reference = world.folder.file("reference.raw")
      try image.dump(to: reference)
      try await Tool.check("nbdcopy", ["--connections=\(connections)", world.uri("source"), file])
      try await Tool.check("cmp", [file, reference])
      try await Tool.check("nbdcopy", ["--connections=\(connections)", "--flush", file, world.uri("target")])
      try await Tool.check("nbdcopy", ["--connections=\(connections)", world.uri("target"), world.folder.file("back")])
      try await Tool.check("cmp", [world.folder.file("back"), reference])
      #expect(first.figures.clientCount == 0)
      #expect(first.figures[.read].byteCount > 0)
    }
  }

  @Test(.eachToolVersion) func qemuImgConvertsComparesAndMaps() async throws {
    let image = sampleImage(8 << 20)
    try await withWorld { world in
      try world.publish(MemoryDevice(image))
      try world.publish(MemoryDevice(byteCount: 8 << 20), as: "target", isDefault: false)
      let reference = world.folder.file("reference.raw")
      try image.dump(to: reference)
      let qcow2 = world.folder.file("copy.qcow2")
      try await Tool.check("qemu-img", ["convert", "-f", "raw", "-O", "qcow2", world.uri("disk"), qcow2])
      try await Tool.check("qemu-img", ["compare", "-f", "raw", "-F", "qcow2", world.uri("disk"), qcow2])
      try await Tool.check(
        "qemu-img", ["convert", "-n", "-W", "-m", "8", "-f", "qcow2", "-O", "raw", qcow2, world.uri("target")])
      try await Tool.check("qemu-img", ["compare", "-f", "raw", "-F", "raw", world.uri("target"), reference])
      let map = try #require(
        try await Tool.json("qemu-img", ["map", "--output=json", "-f", "raw", world.uri("disk")]) as? [[String: Any]])
      var offset = 0
      for extent in map {
        let (start, length) = (extent["start"] as? Int ?? -1, extent["length"] as? Int ?? 0)
        #expect(start == offset)
        let status = image.status(of: ByteRange(offset: UInt64(start), length: UInt64(length)), limit: 1000)
        #expect(status.allSatisfy { $0.readsAsZero == (extent["zero"] as? Bool) })
        offset += length
      }
      #expect(offset == 8 << 20)
    }
  }

  @Test(.eachToolVersion) func dirtyBitmapShowsInQemuImgMap() async throws {
    try await withWorld { world in
      var options = NBDExport.Options()
      options.contexts = [AllocationContext(), EvenBlocks()]
      try world.publish(MemoryDevice(byteCount: 256 << 10), options: options)
      let arguments =
        "driver=nbd,export=disk,server.type=unix,server.path=\(world.socketPath),x-dirty-bitmap=qemu:dirty-bitmap:even"
      let map = try #require(
        try await Tool.json("qemu-img", ["map", "--output=json", "--image-opts", arguments]) as? [[String: Any]])
      #expect(map.map { $0["data"] as? Bool } == [false, true, false, true])
      #expect(map.map { $0["length"] as? Int } == [65536, 65536, 65536, 65536])
    }
  }

  @Test(.eachToolVersion) func qemuIOWritesZeroesTrimsAndVerifies() async throws {
    try await withWorld { world in
      let export = try world.publish(MemoryDevice(byteCount: 4 << 20))
      let output = try await Tool.check(
        "qemu-io",
        [
          "-f", "raw", "-t", "none", world.uri("disk"), "-c", "write -P 0xab 0 1M", "-c", "write -f -P 0xcd 3000 17",
          "-c", "read -P 0xab 0 3000", "-c", "read -P 0xcd 3000 17", "-c", "write -z 64k 64k", "-c",
          "read -P 0 64k 64k",
          "-c", "write -z -u 128k 64k", "-c", "read -P 0 128k 64k", "-c", "discard 1M 64k", "-c", "flush",
          "-c", "aio_write -P 7 2M 1M", "-c", "aio_write -P 8 3M 512k", "-c", "aio_flush", "-c", "read -P 7 2M 1M",
        ])
      #expect(!output.contains("verification failed"), "\(output)")
      #expect(export.figures[.flush].count > 0)
      #expect(export.figures[.write].failedCount == 0)
    }
  }

  @Test(arguments: [0, 1]) func fioVerifiesWhatItWrote(_ slow: Int) async throws {
    try await withWorld { world in
      var options = MemoryDevice.Options()
      // Waiting for the device takes other ways through the server than being answered at once.
      options.answersTryRead = slow == 0
      options.interleavingSeed = slow == 0 ? nil : 3
      try world.publish(MemoryDevice(byteCount: 8 << 20, options: options))
      let output = try await Tool.check(
        "fio",
        [
          "--name=verify", "--ioengine=nbd", "--uri=\(world.uri("disk"))", "--rw=randrw", "--bsrange=512-128k",
          "--blockalign=512", "--iodepth=16", "--verify=crc32c", "--verify_fatal=1", "--io_size=24M", "--size=8M",
          "--verify_async=0", "--verify_state_save=0", "--minimal",
        ])
      #expect(!output.isEmpty)
    }
  }

  /// Both ways, the second through several connections of nbdkit's.
  @Test(arguments: [false, true]) func nbdkitStacksOnUs(_ isShared: Bool) async throws {
    let image = sampleImage(4 << 20)
    try await withWorld { world in
      let source = try world.publish(MemoryDevice(image))
      let target = try world.publish(MemoryDevice(byteCount: 4 << 20), as: "target", isDefault: false)
      let (copy, reference) = (world.folder.file("copy"), world.folder.file("reference.raw"))
      try image.dump(to: reference)
      for (name, copying) in [("disk", "$uri \(copy)"), ("target", "--flush \(copy) $uri"), ("target", "$uri \(copy)")]
      {
        try await Tool.check(
          "nbdkit",
          [
            "-U", "-", "nbd", "uri=\(world.uri(name))", "shared=\(isShared)", "--run",
            "nbdcopy --connections=4 \(copying) && cmp \(copy) \(reference)",
          ])
      }
      #expect(source.figures[.read].byteCount > 0 && source.figures[.read].failedCount == 0)
      #expect(target.figures[.flush].count > 0 && target.figures[.write].failedCount == 0)
      #expect(isShared || source.figures.totalClientCount > 1)
    }
  }

  /// Over TCP, and from one export straight to another.
  @Test(.eachToolVersion) func nbdcopyGoesFromExportToExport() async throws {
    let image = sampleImage(6 << 20)
    try await withWorld(address: .ip(host: "127.0.0.1", port: 0)) { world in
      guard case .ip(_, let port) = world.listener.address else { return }
      let source = MemoryDevice(image)
      let target = MemoryDevice(byteCount: 6 << 20)
      try world.publish(source)
      try world.publish(target, as: "target", isDefault: false)
      let uri = "nbd://127.0.0.1:\(port)"
      try await Tool.check("nbdcopy", ["--connections=4", "--flush", "\(uri)/disk", "\(uri)/target"])
      try await Tool.check("qemu-img", ["compare", "-f", "raw", "-F", "raw", "\(uri)/disk", "\(uri)/target"])
      let bytes = try await target.readAll()
      #expect(try await source.readAll() == bytes)
    }
  }

  @Test(.eachToolVersion) func nbdinfoAnswersSingleQuestions() async throws {
    try await withWorld { world in
      try world.publish(MemoryDevice(byteCount: 3 << 20))
      var options = NBDExport.Options()
      options.isReadOnly = true
      options.allowsMultipleConnections = false
      try world.publish(MemoryDevice(byteCount: 1 << 20), as: "plain", isDefault: false, options: options)
      let (disk, plain) = (world.uri("disk"), world.uri("plain"))
      #expect(try await Tool.check("nbdinfo", ["--size", disk]) == "3145728\n")
      for (question, ofDisk, ofPlain) in [
        ("--is=read-only", false, true), ("--can=multi-conn", true, false), ("--can=write", true, false),
        ("--can=flush", true, false), ("--can=fua", true, false), ("--can=trim", true, false),
        ("--can=zero", true, false), ("--can=fast-zero", true, false), ("--can=df", true, true),
        ("--can=cache", true, true), ("--is=rotational", false, false), ("--can=structured-reply", true, true),
      ] {
        #expect(try await Tool.run("nbdinfo", [question, disk]).status == (ofDisk ? 0 : 2), "\(question)")
        #expect(try await Tool.run("nbdinfo", [question, plain]).status == (ofPlain ? 0 : 2), "\(question)")
      }
      let list = try await Tool.check("nbdinfo", ["--list", world.uri()])
      #expect(list.contains("export=\"disk\":") && list.contains("export=\"plain\":"))
      #expect(list.contains("export-size: 3145728 (3M)"))
      #expect(try await Tool.run("nbdinfo", [world.uri("nowhere")]).status == 1)
    }
  }
}

/// A bitmap in which every other 64 KiB is dirty, from the second on.
struct EvenBlocks: ExportContext {
  let name = "qemu:dirty-bitmap:even"

  nonisolated(nonsending)
    func extents(
      in range: ByteRange, limit: Int, of device: any BlockDevice
    ) async throws(BlockError) -> [ContextExtent]
  {
    var result: [ContextExtent] = []
    var offset = range.offset
    while offset < range.end, result.count < limit {
      let next = min(range.end, (offset / 65536 + 1) * 65536)
      result.append(ContextExtent(length: next - offset, flags: offset / 65536 % 2 == 1 ? 0 : 1))
      offset = next
    }
    return result
  }
}
