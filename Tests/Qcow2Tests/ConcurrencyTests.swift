import BlockCore
import BlockTesting
import Testing

@testable import Qcow2

/// Many requests in flight on one loop, over a device that suspends at every call.
@Suite struct ConcurrencyTests {
  static let sizes = [512, 4096, 65536]

  static func slowDevice(_ seed: UInt64) -> MemoryDevice.Options {
    var options = MemoryDevice.Options()
    options.interleavingSeed = seed
    options.answersTryRead = false
    return options
  }

  /// Each task has every 16th kilobyte to itself: all share clusters and tables with all.
  @Test(arguments: sizes, [UInt64(1), 2, 3])
  func interleavedRequestsKeepToTheirBytes(clusterByteCount: Int, seed: UInt64) async throws {
    let folder = try TemporaryFolder()
    let home = LoopActor()
    let size: UInt64 = 512 << 10
    let (file, image) = try await home.run { _ in
      try await makeImage(
        .init(virtualByteCount: size, clusterByteCount: clusterByteCount), device: Self.slowDevice(seed),
        cacheByteCount: 32 << 10)
    }
    let models = try await withThrowingTaskGroup { group in
      for lane in 0..<16 {
        group.addTask {
          try await home.run { _ in try await Self.work(lane, image, SeededRandom(seed: seed &* 100 &+ UInt64(lane))) }
        }
      }
      for _ in 0..<4 {
        group.addTask {
          try await home.run { _ in
            for _ in 0..<10 { try await image.flush() }
            return [:]
          }
        }
      }
      return try await group.reduce(into: [UInt64: UInt8]()) { $0.merge($1) { first, _ in first } }
    }
    var expected = [UInt8](repeating: 0, count: Int(size))
    for (offset, byte) in models { for index in 0..<1024 { expected[Int(offset) + index] = byte } }
    let model = expected
    try await home.run { _ in
      #expect(try await image.readAll() == model)
      #expect(try await image.check().isClean)
      try await image.close()
      try file.image.dump(to: folder.file("image"))
    }
    #expect(try Qemu.check(folder.file("image")) == .clean)
    #expect(try Qemu.guestBytes(folder.file("image")) == model)
  }

  /// Writes and zeroes the lane's kilobytes and looks at them again; returns what they hold in the end.
  nonisolated(nonsending)
    private static func work(_ lane: Int, _ image: Qcow2Image, _ random: SeededRandom) async throws -> [UInt64: UInt8]
  {
    var random = random
    var model: [UInt64: UInt8] = [:]
    for _ in 0..<30 {
      let offset = UInt64(random.below(32) * 16 + lane) * 1024
      if random.oneIn(3) {
        try await image.writeZeroes(ByteRange(offset: offset, length: 1024), options: .mayUnmap)
        model[offset] = 0
      } else {
        let byte = UInt8(1 + random.below(255))
        let options: WriteOptions = random.oneIn(8) ? .forceUnitAccess : []
        try await image.writeBytes([UInt8](repeating: byte, count: 1024), at: offset, options: options)
        model[offset] = byte
      }
      let found = try await image.readBytes(1024, at: offset)
      if found != [UInt8](repeating: model[offset] ?? 0, count: 1024) {
        throw ConformanceFailure("lane \(lane) reads what it didn't write at \(offset)")
      }
    }
    return model
  }

  /// Compressed batches, plain writes and discards of neighbouring clusters at the same time.
  @Test(arguments: [UInt64(1), 2, 3, 4])
  func compressedAndPlainWritersShareHostClusters(seed: UInt64) async throws {
    let folder = try TemporaryFolder()
    let home = LoopActor()
    let cluster = 4096
    let (file, image) = try await home.run { _ in
      try await makeImage(
        .init(virtualByteCount: 4 << 20, clusterByteCount: cluster, compressionType: .zstd),
        device: Self.slowDevice(seed), cacheByteCount: 32 << 10)
    }
    try await withThrowingTaskGroup { group in
      for lane in 0..<8 {
        group.addTask {
          try await home.run { _ in
            var random = SeededRandom(seed: seed &* 77 &+ UInt64(lane))
            let compressor = try ClusterCompressor(type: .zstd, clusterByteCount: cluster)
            for round in 0..<16 {
              let first = UInt64(lane * 128 + random.below(120))
              let plain = random.bytes(1000) + [UInt8](repeating: UInt8(lane), count: cluster - 1000)
              var output = [UInt8](repeating: 0, count: cluster)
              let count = compress(plain, compressor, &output) ?? 0
              let packed = Array(repeating: output[..<count], count: 4).flatMap { $0 }
              let clusters = (0..<4).map {
                CompressedCluster(guestOffset: (first + UInt64($0)) * UInt64(cluster), byteCount: count)
              }
              try await image.writeCompressed(clusters, from: packed.span.bytes)
              let found = try await image.readBytes(4 * cluster, at: first * UInt64(cluster))
              if found != Array(repeating: plain, count: 4).flatMap({ $0 }) {
                throw ConformanceFailure("lane \(lane), round \(round): compressed clusters read wrong")
              }
              try await image.writeBytes([1, 2, 3], at: first * UInt64(cluster) + 5)
              try await image.discard(ByteRange(offset: (first + 2) * UInt64(cluster), length: UInt64(cluster)))
              if random.oneIn(4) { try await image.flush() }
            }
          }
        }
      }
      try await group.waitForAll()
    }
    let bytes = try await home.run { _ in
      let bytes = try await image.readAll()
      #expect(try await image.check().isClean)
      try await image.close()
      try file.image.dump(to: folder.file("image"))
      return bytes
    }
    #expect(try Qemu.check(folder.file("image")) == .clean)
    #expect(try Qemu.guestBytes(folder.file("image")) == bytes)
  }

  @Test func closeWaitsForRequestsInFlight() async throws {
    let home = LoopActor()
    let (file, image) = try await home.run { _ in
      try await makeImage(.init(virtualByteCount: 1 << 20), device: Self.slowDevice(5))
    }
    let written = try await withThrowingTaskGroup { group in
      for number in 0..<8 {
        group.addTask {
          try await home.run { _ in
            do {
              try await image.writeBytes([UInt8](repeating: 9, count: 512), at: UInt64(number) * 70000)
              return [number]
            } catch let error as BlockError where error.kind == .closed {
              return []
            }
          }
        }
      }
      group.addTask {
        try await home.run { _ in
          try await image.close()
          return [Int]()
        }
      }
      return try await group.reduce(into: []) { $0 += $1 }
    }
    try await home.run { _ in
      let again = try await openImage(MemoryDevice(file.image), isReadOnly: true)
      #expect(try await again.check().isClean)
      for number in written {
        #expect(try await again.readBytes(512, at: UInt64(number) * 70000) == [UInt8](repeating: 9, count: 512))
      }
    }
  }
}
