import BlockCore
import BlockTesting
import Testing

@testable import Qcow2

@Suite struct ResizingTests {
  static let sizes = [512, 4096, 65536]

  @Test(arguments: sizes)
  func growingShowsZeroesAndKeepsTheRest(clusterByteCount: Int) async throws {
    let folder = try TemporaryFolder()
    let bytes = try await LoopActor().run { _ in
      var random = SeededRandom(seed: 2)
      let (file, image) = try await makeImage(
        .init(virtualByteCount: 100 * 512, clusterByteCount: clusterByteCount), cacheByteCount: 32 << 10)
      var model = ByteModel(byteCount: 100 * 512)
      for step in 0..<12 {
        let size = UInt64(model.bytes.count)
        let range = random.range(within: size, alignment: 512, maximum: 60_000, near: clusterByteCount)
        let bytes = random.bytes(range.count)
        try await image.writeBytes(bytes, at: range.lowerBound)
        model.write(bytes, at: range.lowerBound)
        let larger = size + UInt64(1 + random.below(step * 60 + 3)) * 512
        try await image.resize(to: larger)
        model.resize(to: larger)
        try await model.check(image, "grown from \(size) to \(larger)")
      }
      #expect(try await image.check().isClean)
      try await image.close()
      try file.image.dump(to: folder.file("image"))
      return model.bytes
    }
    #expect(try Qemu.check(folder.file("image")) == .clean)
    #expect(try Qemu.guestBytes(folder.file("image")) == bytes)
  }

  /// What a compressed cluster holds behind the disk's end, as another program may leave it, never comes to light.
  @Test(arguments: [(16384, true), (65536, true), (65536, false)], [UInt64(1024), 2048, 300 << 10])
  func growingOverACompressedClusterShowsZeroes(_ kind: (cluster: Int, hasSubclusters: Bool), growth: UInt64)
    async throws
  {
    let folder = try TemporaryFolder()
    let size: UInt64 = 200 << 10
    let (cluster, start) = (kind.cluster, Int(size) / kind.cluster * kind.cluster)
    let bytes = try await LoopActor().run { _ in
      let (file, image) = try await makeImage(
        .init(virtualByteCount: size, clusterByteCount: cluster, hasSubclusters: kind.hasSubclusters))
      let compressor = try ClusterCompressor(type: .zlib, clusterByteCount: cluster)
      var output = [UInt8](repeating: 0, count: cluster)
      let count = try #require(compress([UInt8](repeating: 7, count: cluster), compressor, &output))
      try await image.writeCompressed(
        [CompressedCluster(guestOffset: UInt64(start), byteCount: count)], from: output.span.bytes.extracting(0..<count)
      )
      try await image.resize(to: size + growth)
      let bytes = try await image.readAll()
      #expect(bytes[start..<Int(size)].allSatisfy { $0 == 7 })
      #expect(bytes[Int(size)...].allSatisfy { $0 == 0 })
      #expect(try await image.check().isClean)
      try await image.close()
      try file.image.dump(to: folder.file("image"))
      return bytes
    }
    #expect(try Qemu.guestBytes(folder.file("image")) == bytes)
  }

  @Test(arguments: sizes)
  func growingOverALongerBackingFileHidesIt(clusterByteCount: Int) async throws {
    try await LoopActor().run { _ in
      let backing = MemoryDevice(byteCount: 1 << 20)
      try await backing.writeBytes([UInt8](repeating: 4, count: 1 << 20), at: 0)
      let (_, image) = try await makeImage(
        .init(
          virtualByteCount: 301 * 512, clusterByteCount: clusterByteCount, backing: .init(name: "b", format: "raw")),
        backing: .device(backing))
      try await image.resize(to: 2 << 20)
      let bytes = try await image.readAll()
      #expect(bytes[..<(301 * 512)].allSatisfy { $0 == 4 })
      #expect(bytes[(301 * 512)...].allSatisfy { $0 == 0 })
      #expect(try await image.check().isClean)
      try await image.close()
    }
  }

  /// Down to the last byte that isn't zero, and no further; then up again, over zeroes.
  @Test(arguments: sizes, [false, true])
  func shrinkingLosesNothing(clusterByteCount: Int, hasSubclusters: Bool) async throws {
    if hasSubclusters, clusterByteCount < 16384 { return }
    let folder = try TemporaryFolder()
    let end: UInt64 = 300_032
    let bytes = try await LoopActor().run { _ in
      let (file, image) = try await makeImage(
        .init(virtualByteCount: 1 << 20, clusterByteCount: clusterByteCount, hasSubclusters: hasSubclusters))
      var model = ByteModel(byteCount: 1 << 20)
      try await image.writeBytes([UInt8](repeating: 6, count: 200_032), at: 100_000)
      model.write([UInt8](repeating: 6, count: 200_032), at: 100_000)
      try await image.writeBytes([UInt8](repeating: 6, count: 200_000), at: 600_000)
      do {
        try await image.resize(to: 400 << 10)
        Issue.record("data were cut off")
      } catch let error as BlockError {
        #expect(error.kind == .notSupported && "\(error)".contains("would be lost"))
        #expect(error.range.map { $0.overlaps(ByteRange(offset: 600_000, length: 200_000)) } == true)
      }
      try await image.writeZeroes(ByteRange(offset: 600_000, length: 200_000), options: [])
      for size in [UInt64(700_416), 409_600, end] {
        try await image.resize(to: size)
        model.resize(to: size)
        try await model.check(image, "shrunk to \(size)")
      }
      await #expect(throws: BlockError.self) { try await image.resize(to: end - 512) }
      try await image.resize(to: 1 << 20)
      model.resize(to: 1 << 20)
      try await model.check(image, "grown again")
      try await image.resize(to: end)
      model.resize(to: end)
      #expect(try await image.check().isClean)
      try await image.close()
      try file.image.dump(to: folder.file("image"))
      return model.bytes
    }
    #expect(try Qemu.check(folder.file("image")) == .clean)
    #expect(try Qemu.guestBytes(folder.file("image")) == bytes)
  }

  @Test func shrinkingThatIsCutOffKeepsEverything() async throws {
    try await LoopActor().run { _ in
      let (made, whole) = try await makeImage(.init(virtualByteCount: 1 << 20, clusterByteCount: 4096))
      try await whole.writeBytes([UInt8](repeating: 6, count: 300_000), at: 0)
      try await whole.writeZeroes(ByteRange(offset: 200_000, length: 100_000), options: [])
      try await whole.close()
      var model = ByteModel(byteCount: 1 << 20)
      model.write([UInt8](repeating: 6, count: 200_000), at: 0)
      var call = 0
      var isOver = false
      var sizes: Set<UInt64> = []
      while !isOver {
        call += 1
        let device = CrashPointDevice(made.image)
        device.crash(atCall: call)
        let image = try await openImage(device)
        try? await image.resize(to: 200_192)
        isOver = !device.isCut
        for disk in device.durableImages(seed: UInt64(call), count: 3) {
          let found = try await openImage(disk, isReadOnly: true)
          sizes.insert(found.byteCount)
          var expected = model
          expected.resize(to: found.byteCount)
          try await expected.check(found, "cut at call \(call)")
          #expect(try await found.check().corruptionCount == 0)
        }
      }
      #expect(sizes == [200_192, 1 << 20])
    }
  }

  @Test func imagesWithSnapshotsKeepTheirSize() async throws {
    let folder = try TemporaryFolder()
    let path = folder.file("image")
    try Qemu.image("create", "-q", "-f", "qcow2", path, "1M")
    try Qemu.image("snapshot", "-c", "one", path)
    try await LoopActor().run { _ in
      let image = try await openImage(MemoryDevice(try SparseImage(contentsOf: path)))
      for size in [UInt64(1 << 19), 1 << 21] {
        do {
          try await image.resize(to: size)
          Issue.record("resized to \(size)")
        } catch let error as BlockError {
          #expect("\(error)".contains("internal snapshots"))
        }
      }
      #expect(image.byteCount == 1 << 20)
      try await image.close()
    }
  }

  @Test func backingFileIsNotCutOff() async throws {
    try await LoopActor().run { _ in
      let backing = MemoryDevice(byteCount: 1 << 20)
      try await backing.writeBytes([5], at: 900_000)
      let (_, image) = try await makeImage(
        .init(virtualByteCount: 1 << 20, backing: .init(name: "b", format: "raw")), backing: .device(backing))
      await #expect(throws: BlockError.self) { try await image.resize(to: 1 << 19) }
      try await image.discard(ByteRange(offset: 1 << 19, length: 1 << 19))
      try await image.resize(to: 1 << 19)
      try await image.resize(to: 1 << 20)
      #expect(try await image.readAll().allSatisfy { $0 == 0 })
      try await image.close()
    }
  }

  @Test func sizesThatCanNotBeAreRefused() async throws {
    try await LoopActor().run { _ in
      let (_, image) = try await makeImage(.init(virtualByteCount: 1 << 20, clusterByteCount: 512))
      try await image.writeBytes([1], at: 800_000)
      for (size, kind) in [
        (UInt64(1 << 19), BlockError.Kind.notSupported), ((1 << 20) + 1, .misaligned), (1 << 60, .outOfRange),
      ] {
        do {
          try await image.resize(to: size)
          Issue.record("resized to \(size)")
        } catch let error as BlockError {
          #expect(error.kind == kind)
        }
      }
      #expect(image.byteCount == 1 << 20)
      try await image.close()
    }
  }
}
