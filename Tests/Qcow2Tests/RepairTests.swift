import BlockCore
import BlockTesting
import Testing

@testable import Qcow2

/// Refcounts that are wrong are put right, by nothing but what the tables say.
@Suite struct RepairTests {
  /// An image with leaks of every kind, made by raising counts behind its back.
  nonisolated(nonsending)
    private static func leakyImage(_ refcountBits: Int) async throws -> (file: SparseImage, leaks: Int)
  {
    let (made, image) = try await makeImage(
      .init(virtualByteCount: 1 << 20, clusterByteCount: 4096, refcountBits: refcountBits))
    try await image.writeBytes([UInt8](repeating: 7, count: 100_000), at: 5000)
    try await image.writeZeroes(ByteRange(offset: 20480, length: 40960), options: .mayUnmap)
    try await image.flush()
    let end = made.byteCount >> 12
    var leaks = 0
    for cluster in 0..<end where try await image.refcounts.count(of: cluster) == 0 {
      try await image.refcounts.set(cluster, to: 1)
      leaks += 1
    }
    // Used once, counted twice, and rightly not marked as exclusive.
    if refcountBits > 1 {
      guard case .data(let host, _) = try await image.map.mapping(at: 8192, upTo: 1, .read).target else {
        throw ConformanceFailure("8192 isn't stored")
      }
      try await image.refcounts.set(host >> 12, to: 2)
      _ = try await image.map.update(from: 2, count: 1, .write) { _, old in L2Entry(raw: old.raw & ~L2Entry.copiedFlag)
      }
      leaks += 1
    }
    try await image.map.settle()
    return (made.image, leaks)
  }

  @Test(arguments: [1, 4, 16, 64])
  func leaksAreGoneAfterRepair(refcountBits: Int) async throws {
    let folder = try TemporaryFolder()
    try await LoopActor().run { _ in
      let (file, leaks) = try await Self.leakyImage(refcountBits)
      try file.dump(to: folder.file("image"))
      #expect(try Qemu.check(folder.file("image")) == .init(corruptions: 0, leaks: leaks))
      let device = MemoryDevice(file)
      let image = try await openImage(device)
      #expect(try await image.check().leakCount == leaks)
      let before = try await image.readAll()
      let report = try await image.repairLeaks()
      #expect(report.isClean && report.repairedCount == leaks, "\(report)")
      #expect(try await image.check().isClean)
      #expect(try await image.readAll() == before)
      // What was leaked is used again: nothing is added to the file.
      let size = device.byteCount
      try await image.writeBytes([UInt8](repeating: 8, count: 4096), at: 1 << 19)
      #expect(device.byteCount == size)
      try await image.close()
      try device.image.dump(to: folder.file("image"))
    }
    #expect(try Qemu.check(folder.file("image")) == .clean)
  }

  @Test func repairThatIsCutOffHarmsNothing() async throws {
    try await LoopActor().run { _ in
      let (file, _) = try await Self.leakyImage(16)
      let before = try await openImage(MemoryDevice(file), isReadOnly: true).readAll()
      var call = 0
      var isOver = false
      while !isOver {
        call += 1
        let device = CrashPointDevice(file)
        device.crash(atCall: call)
        let image = try await openImage(device)
        _ = try? await image.repairLeaks()
        isOver = !device.isCut
        for (number, disk) in device.durableImages(seed: UInt64(call), count: 4).enumerated() {
          let found = try await openImage(disk)
          let report = try await found.check()
          // A flag that says "copy before writing" without need is put right by the next repair.
          #expect(report.findings.allSatisfy { $0.kind == .leak || $0.place.contains("COPIED is false") }, "\(report)")
          let repaired = try await found.repairLeaks()
          #expect(repaired.isClean, "cut at call \(call), disk \(number): \(repaired)")
          #expect(try await found.readAll() == before)
        }
      }
      #expect(call > 3)
    }
  }

  @Test func damagedTablesAreNotRepairedByGuessing() async throws {
    try await LoopActor().run { _ in
      let sound = try await DamageTests.soundImage()
      let places = try await DamageTests.places(sound)
      for value in [1 << 63 | 1 << 50, 1 << 63 | 0x5002] as [UInt64] {
        var file = sound
        DamageTests.store(value, at: places.l2 + 16, in: &file)
        let device = MemoryDevice(file)
        let image = try await openImage(device)
        let report = try await image.repairLeaks()
        #expect(report.corruptionCount > 0 && report.repairedCount == 0)
        #expect(try await device.readAll() == MemoryDevice(file).readAll())
      }
    }
  }

  /// QEMU with lazy refcounts, killed: counts are missing and the image is marked dirty.
  @Test(.eachToolVersion, arguments: ["cluster_size=4096", "cluster_size=65536", "cluster_size=16384,extended_l2=on"])
  func dirtyImageIsRepairedWhenOpened(options: String) async throws {
    let folder = try TemporaryFolder()
    let path = folder.file("image")
    try Qemu.image("create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=on,\(options)", path, "1M")
    // The tool kills itself: its status is no success.
    _ = try Qemu.run(
      "qemu-io",
      ["-f", "qcow2", "-c", "write -P 3 50k 300k", "-c", "flush", "-c", "write -P 4 900k 64k", "-c", "abort", path])
    try await LoopActor().run { _ in
      let start = try SparseImage(contentsOf: path)
      let header = try await Qcow2Header.read(from: MemoryDevice(start), pool: pool)
      #expect(header.incompatible.contains(.dirty))
      let before = try await openImage(MemoryDevice(start), isReadOnly: true).readAll()
      var call = 0
      var isOver = false
      while !isOver {
        call += 1
        let device = CrashPointDevice(start)
        device.crash(atCall: call)
        let image = try? await openImage(device)
        isOver = !device.isCut
        device.crash(atCall: nil)
        for disk in device.durableImages(seed: UInt64(call), count: 2) {
          let found = try await openImage(disk)
          #expect(try await found.check().isClean)
          #expect(try await found.readAll() == before)
        }
        guard isOver, let image else { continue }
        #expect(!image.header.value.incompatible.contains(.dirty))
        #expect(image.header.value.compatibleBits & 1 == 1)
        try await image.writeBytes([UInt8](repeating: 9, count: 70_000), at: 700_000)
        try await image.close()
        try device.liveImage.dump(to: path)
      }
    }
    #expect(try Qemu.check(path) == .clean)
    #expect(try !Qemu.image("info", "-f", "qcow2", path).contains("dirty"))
  }

  @Test func imageMarkedCorruptOpensReadOnlyAlone() async throws {
    try await LoopActor().run { _ in
      var file = try await DamageTests.soundImage()
      DamageTests.store(2, at: 72, in: &file)
      try await openImage(MemoryDevice(file), isReadOnly: true).close()
      do {
        _ = try await openImage(MemoryDevice(file))
        Issue.record("opened")
      } catch Qcow2Error.notWritable(let text) {
        #expect(text.contains("marked corrupt"))
      }
    }
  }
}
