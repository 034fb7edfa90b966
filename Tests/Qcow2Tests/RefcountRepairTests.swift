import BlockCore
import BlockTesting
import Foundation
import Testing

@testable import Qcow2

/// Counts that are too low, or missing, are put right from the tables, and no cut on the way makes anything worse.
@Suite struct RefcountRepairTests {
  /// An image whose file several refcount blocks cover, with compressed clusters.
  nonisolated(nonsending)
    private static func soundImage(_ refcountBits: Int) async throws -> (file: SparseImage, bytes: [UInt8])
  {
    var random = SeededRandom(seed: 51)
    let (file, image) = try await makeImage(
      .init(virtualByteCount: 1 << 20, clusterByteCount: 512, refcountBits: refcountBits))
    try await image.writeBytes(random.bytes(700_000), at: 0)
    let compressor = try ClusterCompressor(type: .zlib, clusterByteCount: 512)
    var output = [UInt8](repeating: 0, count: 512)
    for number in 0..<UInt64(6) {
      let plain = random.bytes(90) + [UInt8](repeating: 3, count: 422)
      let count = try #require(compress(plain, compressor, &output))
      let packed = Array(output[..<count])
      try await image.writeCompressed(
        [.init(guestOffset: 800_256 + number * 512, byteCount: count)], from: packed.span.bytes)
    }
    let bytes = try await image.readAll()
    try await image.close()
    return (file.image, bytes)
  }

  /// Counts by chance, and blocks that the table doesn't name any more.
  nonisolated(nonsending)
    private static func damage(
      _ sound: SparseImage, missingBlocks: Int, _ random: inout SeededRandom
    ) async throws -> SparseImage
  {
    let device = MemoryDevice(sound)
    let image = try await openImage(device)
    for _ in 0..<20 {
      let cluster = 1 + UInt64(random.below(Int(image.refcounts.usedEnd) - 1))
      try await image.refcounts.set(cluster, to: random.oneIn(2) ? 0 : min(2, image.refcounts.width.maximum))
    }
    try await image.map.settle()
    var file = device.image
    for _ in 0..<missingBlocks {
      let used = image.refcounts.table.indices.filter { image.refcounts.table[$0] != 0 }
      let entry = UInt64(used[random.below(used.count)])
      let zero = [UInt8](repeating: 0, count: 8)
      file.write(zero.span.bytes, at: image.refcounts.tableOffset + entry * 8)
    }
    return file
  }

  @Test(arguments: [1, 16, 64], [0, 1, 3])
  func wrongAndMissingCountsArePutRight(refcountBits: Int, missingBlocks: Int) async throws {
    let folder = try TemporaryFolder()
    try await LoopActor().run { _ in
      let (sound, bytes) = try await Self.soundImage(refcountBits)
      for seed in 0..<UInt64(TestEffort.rounds(3)) {
        var random = SeededRandom(seed: seed)
        let device = MemoryDevice(try await Self.damage(sound, missingBlocks: missingBlocks, &random))
        let image = try await openImage(device)
        #expect(try await image.check().corruptionCount > 0, "\(random)")
        let report = try await image.repairRefcounts()
        #expect(report.isClean && report.repairedCount > 0, "\(random): \(report)")
        #expect(try await image.readAll() == bytes, "\(random)")
        // What is written now goes over nothing.
        try await image.writeBytes([UInt8](repeating: 9, count: 150_000), at: 850_000)
        #expect(try await Array(image.readAll()[..<800_000]) == Array(bytes[..<800_000]), "\(random)")
        try await image.close()
        try device.image.dump(to: folder.file("image"))
        #expect(try Qemu.check(folder.file("image")) == .clean, "\(random)")
      }
    }
  }

  @Test func repairThatIsCutOffIsNeverWorseAndCanBeDoneAgain() async throws {
    try await LoopActor().run { _ in
      let (sound, bytes) = try await Self.soundImage(16)
      var random = SeededRandom(seed: 77)
      let file = try await Self.damage(sound, missingBlocks: 2, &random)
      let before = try await openImage(MemoryDevice(file), isReadOnly: true).check()
      var call = 0
      var isOver = false
      while !isOver {
        call += 1
        let device = CrashPointDevice(file)
        device.crash(atCall: call)
        let image = try await openImage(device)
        _ = try? await image.repairRefcounts()
        isOver = !device.isCut
        for (number, disk) in device.durableImages(seed: UInt64(call), count: 3).enumerated() {
          let what = "cut at call \(call), disk \(number)"
          let found = try await openImage(disk)
          let report = try await found.check()
          #expect(report.corruptionCount <= before.corruptionCount, "\(what): \(report)")
          #expect(try await found.readAll() == bytes, "\(what)")
          let repaired = try await found.repairRefcounts()
          #expect(repaired.isClean, "\(what): \(repaired)")
        }
      }
      #expect(call > 5)
    }
  }

  /// Two entries name one cluster: afterwards it is shared, and copied before it is written.
  @Test func clusterThatTwoEntriesNameIsSharedAfterwards() async throws {
    try await LoopActor().run { _ in
      var file = try await DamageTests.soundImage()
      let places = try await DamageTests.places(file)
      DamageTests.store(file.integer(at: places.l2 + 16), at: places.l2 + 24, in: &file)
      let image = try await openImage(MemoryDevice(file))
      let report = try await image.repairRefcounts()
      #expect(report.isClean, "\(report)")
      let other = try await image.readBytes(4096, at: 12288)
      try await image.writeBytes([UInt8](repeating: 8, count: 4096), at: 8192)
      #expect(try await image.readBytes(4096, at: 12288) == other)
      try await image.close()
    }
  }

  /// Counting metadata twice would only hide that an entry gives it away.
  @Test func entriesThatNameMetadataAreNotCoveredUp() async throws {
    try await LoopActor().run { _ in
      let sound = try await DamageTests.soundImage()
      let places = try await DamageTests.places(sound)
      for target in [places.l1, places.l2, places.table, places.block] {
        var file = sound
        DamageTests.store(L2Entry.copiedFlag | target, at: places.l2 + 16, in: &file)
        let device = MemoryDevice(file)
        let image = try await openImage(device)
        let report = try await image.repairRefcounts()
        #expect(report.corruptionCount > 0 && report.repairedCount == 0, "\(report)")
        #expect(try await device.readAll() == MemoryDevice(file).readAll())
      }
    }
  }
}
