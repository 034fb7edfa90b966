import BlockCore
import BlockTesting
import Testing

@testable import Qcow2

/// Compressed clusters in a file that takes whole blocks only.
@Suite struct PackedTailTests {
  private static let cluster = 65536

  private static func blocks(_ seed: UInt64? = nil) -> MemoryDevice.Options {
    var options = MemoryDevice.Options()
    options.limits.requestAlignment = 4096
    options.answersTryRead = false
    options.interleavingSeed = seed
    return options
  }

  private static func plain(_ index: UInt64) -> [UInt8] {
    var random = SeededRandom(seed: index + 1)
    let noise = random.bytes(5000 + random.below(20_000))
    return noise + [UInt8](repeating: UInt8(index & 0xff), count: cluster - noise.count)
  }

  /// Stores the clusters of `indices` as one run.
  nonisolated(nonsending)
    private static func store(_ indices: Range<UInt64>, _ image: Qcow2Image) async throws
  {
    let compressor = try ClusterCompressor(type: .zstd, clusterByteCount: cluster)
    var clusters: [CompressedCluster] = []
    var packed: [UInt8] = []
    for index in indices {
      var output = [UInt8](repeating: 0, count: cluster)
      let count = try #require(compress(plain(index), compressor, &output))
      clusters.append(CompressedCluster(guestOffset: index * UInt64(cluster), byteCount: count))
      packed += output[..<count]
    }
    let bytes = packed
    try await image.writeCompressed(clusters, from: bytes.span.bytes)
  }

  private static func options(_ count: UInt64) -> Qcow2Image.CreateOptions {
    .init(virtualByteCount: count * UInt64(cluster), clusterByteCount: cluster, compressionType: .zstd)
  }

  /// A run doesn't wait for the block that it shares with the one before, and doesn't read it back.
  @Test func runsBehindOneAnotherReadNothing() async throws {
    try await LoopActor().run { _ in
      let memory = MemoryDevice(byteCount: 0, options: Self.blocks())
      try await Qcow2Image.create(on: memory, options: Self.options(64))
      let counting = FaultyDevice(memory, fault: Fault(atCall: .max))
      let image = try await openImage(counting)
      try await Self.store(0..<2, image)
      // From here on the tables are in memory.
      counting.fault = Fault(atCall: 1, of: [.read])
      for run in 1..<16 { try await Self.store(UInt64(run) * 2..<UInt64(run) * 2 + 2, image) }
      #expect(!counting.wasHit)
      counting.fault = nil
      try await image.close()
      let found = try await openImage(MemoryDevice(memory.image), isReadOnly: true)
      for index in 0..<32 as Range<UInt64> {
        #expect(try await found.readBytes(Self.cluster, at: index * UInt64(Self.cluster)) == Self.plain(index))
      }
    }
  }

  /// Runs, readers and flushes in turn: a cluster reads as stored from the moment that its run is answered, from
  /// memory or from the file.
  @Test(arguments: 1...UInt64(TestEffort.rounds(6)))
  func storedClustersReadBackAtAnyMoment(seed: UInt64) async throws {
    let folder = try TemporaryFolder()
    let home = LoopActor()
    let count: UInt64 = 96
    let (file, image) = try await home.run { _ in
      try await makeImage(Self.options(count), device: Self.blocks(seed), cacheByteCount: 256 << 10)
    }
    try await withThrowingTaskGroup { group in
      for lane in 0..<8 as Range<UInt64> {
        group.addTask {
          try await home.run { _ in
            var random = SeededRandom(seed: seed * 100 + lane)
            for round in 0..<4 as Range<UInt64> {
              let first = (round * 8 + lane) * 3
              try await Self.store(first..<first + 3, image)
              for index in first..<first + 3 {
                let found = try await image.readBytes(Self.cluster, at: index * UInt64(Self.cluster))
                #expect(found == Self.plain(index), "seed \(seed), cluster \(index)")
              }
              if random.oneIn(3) { try await image.flush() }
            }
          }
        }
      }
      try await group.waitForAll()
    }
    try await home.run { _ in
      try await image.flush()
      #expect(image.file.tails.all.isEmpty)
      #expect(try await image.check().isClean)
      try await image.close()
      try file.image.dump(to: folder.file("image"))
    }
    #expect(try Qemu.check(folder.file("image")) == .clean)
    #expect(try Qemu.guestBytes(folder.file("image")) == (0..<count).flatMap { Self.plain($0) })
  }

  /// A run whose write fails takes nothing with it of the one before.
  @Test func aFailedRunLeavesTheOneBefore() async throws {
    try await LoopActor().run { _ in
      let memory = MemoryDevice(byteCount: 0, options: Self.blocks())
      try await Qcow2Image.create(on: memory, options: Self.options(16))
      let faulty = FaultyDevice(memory, fault: Fault(atCall: .max))
      let image = try await openImage(faulty)
      try await Self.store(0..<2, image)
      faulty.fault = Fault(atCall: 1, of: [.write], .noSpace)
      await #expect(throws: BlockError.self) { try await Self.store(2..<4, image) }
      faulty.fault = nil
      #expect(try await image.readBytes(Self.cluster, at: UInt64(Self.cluster)) == Self.plain(1))
      try await Self.store(4..<6, image)
      try await image.close()
      let found = try await openImage(MemoryDevice(memory.image), isReadOnly: true)
      #expect(try await found.check().isClean)
      for index in [0, 1, 4, 5] as [UInt64] {
        #expect(try await found.readBytes(Self.cluster, at: index * UInt64(Self.cluster)) == Self.plain(index))
      }
      #expect(try await found.readBytes(Self.cluster, at: 2 * UInt64(Self.cluster)).allSatisfy { $0 == 0 })
    }
  }
}
