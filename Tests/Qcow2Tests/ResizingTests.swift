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

  @Test func sizesThatCanNotBeAreRefused() async throws {
    try await LoopActor().run { _ in
      let (_, image) = try await makeImage(.init(virtualByteCount: 1 << 20, clusterByteCount: 512))
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
