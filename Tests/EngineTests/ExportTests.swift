import BlockTesting
import Engine
import EventLoops
import Foundation
import Model
import ModelTesting
import Testing

/// What NBD clients see of images, as they would use them: the clients are QEMU's and libnbd's own.
struct ExportTests {
  @Test(.eachToolVersion, arguments: TestEngine.backends)
  func writesThroughAnExportLandInTheImage(_ backend: IOBackend) async throws {
    try await withEngine(backend: backend) { test in
      let qcow2 = try test.makeQcow2()
      let raw = ImageLocation(source: .file(path: test.images + "/plain.raw"), format: .raw)
      try SampleImage.raw(at: raw.source.place, byteCount: 4 << 20, seed: 8)
      for location in [qcow2, raw] {
        for cache in CacheMode.allCases {
          try await checkWrites(location, cache, test)
        }
      }
    }
  }

  /// The same requests change the image by way of an export, and a copy by QEMU alone.
  private func checkWrites(_ location: ImageLocation, _ cache: CacheMode, _ test: TestEngine) async throws {
    let (path, format) = (location.source.place, location.format.rawValue)
    let copy = test.root + "/copy.\(format)"
    try? FileManager.default.removeItem(atPath: copy)
    try FileManager.default.copyItem(atPath: path, toPath: copy)
    let image = ImageID()
    let wished = cache == .direct ? nil : cache
    try await test.attach(location, as: image, cache: wished)
    let order = test.order("vm", .attachedImage(image), isReadOnly: false)
    try await test.engine.export(order)
    let requests = [
      "-c", "write -P 17 0 64k", "-c", "write -P 18 100k 300k", "-c", "write -z 1M 256k", "-c", "write -zu 2M 256k",
      "-c", "write -P 19 3000001 777", "-c", "discard 3M 128k", "-c", "flush", "-c", "write -f -P 20 3900k 196k",
    ]
    #expect(try await Tool.runAside("nbdinfo", ["--json", test.uri(order)]).contains("\"block_size_minimum\": 1,"))
    try await Tool.runAside("qemu-io", ["-f", "raw"] + requests + [test.uri(order)])
    try await Tool.runAside("qemu-io", ["-f", format] + requests + [copy])
    let refusal = await #expect(throws: DomainError.self) { try await test.engine.detach(image) }
    #expect(refusal?.code == .imageInUse && refusal?.detail.contains("vm") == true)
    let activity = try #require(test.engine.activity(of: order.export))
    #expect(activity.clients == 0 && activity.writes.count >= 6 && activity.writes.bytes > 900 << 10)
    #expect(activity.writes.failed == 0 && activity.flushes.count > 0)
    #expect(activity.writes.latency.map { $0.p50 <= $0.p99 && $0.p99 <= $0.p999 } == true)
    try await test.engine.withdraw(order.export, .safe)
    #expect(test.engine.activity(of: order.export) == nil)
    try await test.engine.detach(image)
    try Tool.judge("compare", "-f", format, "-F", format, path, copy)
    if location.format == .qcow2 { try Tool.judge("check", "-f", "qcow2", path) }
  }

  @Test(.eachToolVersion) func exportedBackupIsWhatWasBackedUp() async throws {
    try await withEngine { test in
      for byteCount: UInt64 in [3 << 20, 1_000_001, 511] {
        let source = test.images + "/\(byteCount).raw"
        try SampleImage.raw(at: source, byteCount: byteCount, seed: byteCount)
        let made = try await test.backUp(test.record("vm", source, .raw))
        let order = test.order("b", .backup(made.place))
        try await test.engine.export(order)
        let uri = test.uri(order)
        #expect(try await Tool.runAside("nbdinfo", ["--size", uri]) == "\(byteCount)\n")
        let copy = test.root + "/copy.raw"
        try await Tool.runAside("nbdcopy", [uri, copy])
        #expect(try SampleImage.bytes(copy) == SampleImage.bytes(source))
        let answer = try await Tool.runAside("nbdinfo", ["--json", uri])
        #expect(answer.contains("\"is_read_only\": true") && answer.contains("base:allocation"))
        #expect(!answer.contains("allocation-depth"))
        #expect(test.engine.activity(of: order.export)?.reads.bytes ?? 0 >= 511)
        try await Tool.runAside("qemu-io", ["-f", "raw", "-c", "write 0 1", uri], expecting: [1])
        try await test.engine.withdraw(order.export, .safe)
        #expect(try await test.verify(made.place).findings == [])
      }
    }
  }

  @Test(.eachToolVersion) func exportOfAnImageThatIsNotAttachedKeepsWritersAway() async throws {
    try await withEngine { test in
      let location = try test.makeQcow2()
      let path = location.source.place
      let order = test.order("vm", .image(location), depth: true)
      try await test.engine.export(order)
      try await Tool.runAside(
        "qemu-img", ["compare", "-f", "qcow2", "-F", "raw", path, test.uri(order)])
      #expect(try await Tool.runAside("nbdinfo", ["--json", test.uri(order)]).contains("qemu:allocation-depth"))
      let map = try await Tool.runAside("nbdinfo", ["--map=qemu:allocation-depth", test.uri(order)])
      #expect(map.contains("absent") && map.contains("local"), "\(map)")
      try await Tool.runAside("qemu-io", ["-f", "qcow2", "-c", "write 0 1", path], expecting: [1])
      // Other readers are welcome.
      _ = try await test.backUp(test.record("vm", path, .qcow2))
      #expect(await code { try await test.attach(location, as: ImageID()) } == .imageLocked)
      try await test.engine.withdraw(order.export, .hard)
      try await test.attach(location, as: ImageID())
      let writable = test.order("vm", .image(location), isReadOnly: false)
      #expect(await code { try await test.engine.export(writable) } == .invalidField)
      let absent = test.order("vm", .attachedImage(ImageID()))
      #expect(await code { try await test.engine.export(absent) } == .imageNotAttached)
    }
  }

  @Test(.eachToolVersion) func readOnlyExportOfAnAttachedImageSeesWhatIsWritten() async throws {
    try await withEngine { test in
      let image = ImageID()
      try await test.attach(try test.makeQcow2(), as: image)
      let writer = test.order("writer", .attachedImage(image), isReadOnly: false)
      try await test.engine.export(writer)
      let beside = test.order("beside", .attachedImage(image))
      try await test.engine.export(beside)
      try await Tool.runAside("qemu-io", ["-f", "raw", "-c", "write -P 77 1M 64k", test.uri(writer)])
      let answer = try await Tool.runAside("qemu-io", ["-r", "-f", "raw", "-c", "read -P 77 1M 64k", test.uri(beside)])
      #expect(!answer.contains("failed"), "\(answer)")
      try await Tool.runAside("qemu-io", ["-f", "raw", "-c", "write 0 1", test.uri(beside)], expecting: [1])
    }
  }

  @Test func safeRemovalWaitsForNobodyAndHardRemovalCutsOff() async throws {
    try await withEngine { test in
      let image = ImageID()
      try await test.attach(try test.makeQcow2(), as: image)
      let order = test.order("vm", .attachedImage(image), isReadOnly: false)
      try await test.engine.export(order)
      let client = try await test.client(of: order, isReadOnly: false)
      let refusal = await #expect(throws: DomainError.self) { try await test.engine.withdraw(order.export, .safe) }
      #expect(refusal?.code == .exportInUse && refusal?.detail.contains("1 client") == true, "\(refusal as Any)")
      #expect(test.engine.activity(of: order.export)?.clients == 1)
      try await Tool.runAside("nbdinfo", ["--size", test.uri(order)])
      try await test.engine.withdraw(order.export, .hard)
      #expect(test.engine.activity(of: order.export) == nil)
      #expect(!FileManager.default.fileExists(atPath: test.socket("nbd")))
      client.stop()
      // Gone already: nothing to do.
      try await test.engine.withdraw(order.export, .safe)
      try await test.engine.detach(image)
    }
  }

  @Test func damagedSourcesAreNamed() async throws {
    try await withEngine { test in
      let source = test.images + "/vm.raw"
      try SampleImage.raw(at: source, byteCount: 1 << 20, seed: 1)
      let made = try await test.backUp(test.record("vm", source, .raw))
      try FileManager.default.removeItem(atPath: made.dataPath)
      let order = test.order("b", .backup(made.place))
      #expect(await code { try await test.engine.export(order) } == .backupCorrupt)
      let top = test.images + "/top.qcow2"
      try Tool.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", source, "-F", "raw", top)
      try FileManager.default.removeItem(atPath: source)
      let location = ImageLocation(source: .file(path: top), format: .qcow2)
      let image = test.order("top", .image(location))
      #expect(await code { try await test.engine.export(image) } == .sourceNotFound)
      #expect(await code { try await test.attach(location, as: ImageID()) } == .sourceNotFound)
      #expect(!FileManager.default.fileExists(atPath: test.socket("nbd")))
      // Nothing is left behind: it works as soon as the file is back.
      try SampleImage.raw(at: source, byteCount: 1 << 20, seed: 1)
      try await test.engine.export(image)
    }
  }

  @Test(.eachToolVersion) func shutdownEndsClientsAndKeepsWhatTheyWrote() async throws {
    let root = NSTemporaryDirectory() + "cobweb-engine-\(ULID())"
    let location = try await { () async throws -> ImageLocation in
      let test = try await TestEngine(root: root)
      let location = try test.makeQcow2()
      let image = ImageID()
      try await test.attach(location, as: image)
      let order = test.order("vm", .attachedImage(image), isReadOnly: false)
      try await test.engine.export(order)
      let client = try await test.client(of: order, isReadOnly: false)
      try client.send("write -P 9 128k 64k\n")
      try await eventually("it is written") { (test.engine.activity(of: order.export)?.writes.bytes ?? 0) >= 65536 }
      await test.engine.shutDown()
      #expect(!FileManager.default.fileExists(atPath: test.socket("nbd")))
      return location
    }()
    defer { try? FileManager.default.removeItem(atPath: root) }
    let answer = try Tool.run("qemu-io", "-f", "qcow2", "-c", "read -P 9 128k 64k", location.source.place)
    #expect(!answer.contains("failed"))
    try Tool.judge("check", "-f", "qcow2", location.source.place)
  }
}
