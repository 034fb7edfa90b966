import BlockCore
import BlockTesting
import Testing

@testable import Qcow2

/// Files are checked in windows, of which only those are gone through that have something to compare.
@Suite struct CheckWindowTests {
  /// 8 TiB in clusters of 512 bytes: 1024 windows.
  private static let hugeByteCount: UInt64 = 8 << 40

  nonisolated(nonsending)
    private static func makeImage(_ clusterByteCount: Int, seed: UInt64) async throws -> SparseImage
  {
    let (device, image) = try await Qcow2Tests.makeImage(
      .init(virtualByteCount: 4 << 20, clusterByteCount: clusterByteCount))
    var random = SeededRandom(seed: seed)
    try await image.writeBytes(random.bytes(3000), at: 0)
    for _ in 0..<20 {
      let range = random.range(within: 4 << 20, alignment: 512, maximum: 40_000, near: clusterByteCount)
      try await image.writeBytes(random.bytes(range.count), at: range.lowerBound)
    }
    try await image.close()
    return device.image
  }

  private static func walk(_ image: Qcow2Image, windowClusterCount: UInt64) -> MetadataWalk {
    MetadataWalk(
      file: image.file, header: image.header.value, refcountTable: image.refcounts.table,
      windowClusterCount: windowClusterCount)
  }

  /// What is found, and what is repaired, doesn't depend on where the windows end.
  @Test(arguments: [512, 4096])
  func windowsOfAnySizeFindTheSame(clusterByteCount: Int) async throws {
    try await LoopActor().run { _ in
      for seed in 0..<UInt64(TestEffort.rounds(8)) {
        let sound = try await Self.makeImage(clusterByteCount, seed: seed)
        var random = SeededRandom(seed: seed)
        let device = MemoryDevice(sound)
        let image = try await openImage(device)
        for _ in 0..<random.below(5) {
          let cluster = 1 + UInt64(random.below(Int(image.refcounts.usedEnd) - 1))
          try await image.refcounts.set(cluster, to: UInt64(random.below(3)))
        }
        try await image.close()
        // An entry of an L2 table, or what is taken for one, names some cluster of the file, or none.
        var file = device.image
        if random.oneIn(2) {
          let place = try await DamageTests.places(file).l2 + 8 * UInt64(random.below(64))
          let cluster = UInt64(random.below(Int(file.byteCount) / clusterByteCount + 20))
          DamageTests.store(L2Entry.copiedFlag | cluster * UInt64(clusterByteCount), at: place, in: &file)
        }
        let checked = try await openImage(MemoryDevice(file), isReadOnly: true)
        let whole = try await Self.walk(checked, windowClusterCount: ReferenceCounts.usualWindowClusterCount).run()
        for windowClusterCount: UInt64 in [32, 100, 257, 4096] {
          let parts = try await Self.walk(checked, windowClusterCount: windowClusterCount).run()
          let what = "\(random), windows of \(windowClusterCount)"
          #expect(parts.corruptionCount == whole.corruptionCount && parts.leakCount == whole.leakCount, "\(what)")
          #expect(Set(parts.findings) == Set(whole.findings) || whole.isTruncated, "\(what)")
        }
      }
    }
  }

  @Test(.timeLimit(.minutes(1)))
  func aHugeFileIsCheckedByWhatIsStoredInIt() async throws {
    try await LoopActor().run { _ in
      var file = try await Self.makeImage(512, seed: 1)
      file.resize(to: Self.hugeByteCount)
      var told: [Double] = []
      let report = try await openImage(MemoryDevice(file), isReadOnly: true).check { told.append($0) }
      #expect(report.isClean, "\(report)")
      #expect(told.count > 10 && told.last! > 0.7 && told.allSatisfy { (0...1).contains($0) })
      #expect(zip(told, told.dropFirst()).allSatisfy { $0 <= $1 })
    }
  }

  /// Far behind everything else an entry names a cluster that isn't counted, and a block counts clusters that nothing
  /// names.
  @Test(.timeLimit(.minutes(1)))
  func whatLiesFarApartIsFound() async throws {
    try await LoopActor().run { _ in
      var file = try await Self.makeImage(512, seed: 1)
      file.resize(to: Self.hugeByteCount)
      let places = try await DamageTests.places(file)
      let far = Self.hugeByteCount - 512
      // The entry of a guest cluster that isn't stored, and of a part of the file that has no refcount block.
      var entry = places.l2
      while file.integer(at: entry) != 0 { entry += 8 }
      DamageTests.store(L2Entry.copiedFlag | far, at: entry, in: &file)
      var table = places.table + 504
      while file.integer(at: table) != 0 { table -= 8 }
      DamageTests.store(far - 512, at: table, in: &file)
      let one: [UInt8] = [0, 1]
      file.write(one.span.bytes, at: far - 512)
      let report = try await openImage(MemoryDevice(file), isReadOnly: true).check()
      let counted = (table - places.table) / 8 * 256 * 512
      let texts = report.findings.map(\.place)
      #expect(texts.contains("cluster at \(far): refcount 0, 1 references"), "\(texts)")
      #expect(texts.contains("cluster at \(counted): refcount 1, 0 references"), "\(texts)")
      #expect(texts.contains("cluster at \(far - 512): refcount 0, 1 references"), "\(texts)")
      #expect(report.leakCount == 1)
    }
  }

  /// Entries that are scattered over more windows than are gone through.
  @Test func whatIsScatteredTooFarIsRefused() async throws {
    try await LoopActor().run { _ in
      let (_, image) = try await Qcow2Tests.makeImage(.init(virtualByteCount: 1 << 20, clusterByteCount: 512))
      try await image.writeBytes([UInt8](repeating: 1, count: 1 << 20), at: 0)
      try await image.flush()
      let walk = MetadataWalk(
        file: image.file, header: image.header.value, refcountTable: image.refcounts.table, windowClusterCount: 1)
      do {
        _ = try await walk.run()
        Issue.record("checked")
      } catch {
        #expect("\(error)".contains("too far apart"))
      }
    }
  }

  @Test func aCheckEndsWhereItsProgressThrows() async throws {
    try await LoopActor().run { _ in
      var file = try await Self.makeImage(512, seed: 1)
      file.resize(to: Self.hugeByteCount)
      let image = try await openImage(MemoryDevice(file), isReadOnly: true)
      var count = 0
      _ = try await image.check { _ in count += 1 }
      for last in [1, count / 2, count] {
        var calls = 0
        await #expect(throws: BlockError.self) {
          try await image.check { (_) async throws(BlockError) in
            calls += 1
            if calls == last { throw BlockError(.cancelled, .read) }
          }
        }
        #expect(calls == last)
      }
    }
  }
}
