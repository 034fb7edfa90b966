import BlockCore
import BlockTesting
import Foundation
import Testing

@testable import Qcow2

/// Every variant that QEMU makes, written by its versions and by us by turns: none loses a byte of another's.
@Suite struct AlternationTests {
  @Test(arguments: ReadingTests.variants)
  func imageIsWrittenByQemuAndByUsInTurns(_ variant: ReadingTests.Variant) async throws {
    let folder = try TemporaryFolder()
    let path = try ReadingTests.make(variant, in: folder, random: SeededRandom(seed: 21))
    for round in 0..<2 {
      let start = try Qemu.guestBytes(path)
      let ours = try await LoopActor().run { _ in
        try await Self.write(path, start, SeededRandom(seed: UInt64(22 + round)))
      }
      #expect(try Qemu.check(path) == .clean, "round \(round)")
      #expect(try Qemu.guestBytes(path) == ours, "round \(round)")
      let size = variant.byteCount / 512
      let commands = [
        "write -P \(60 + round) \(size / 3 * 512) \(size / 4 * 512)", "write -z \(size / 5 * 512) \(size / 9 * 512)",
        "discard \(size / 2 * 512) \(size / 6 * 512)",
      ]
      if size > 9 {
        try ToolVersion.$current.withValue(.ofTurn(round)) {
          try Qemu.io(path, commands, options: ["-d", "unmap"])
        }
      }
    }
    try await LoopActor().run { _ in
      let image = try await openFile(path)
      #expect(try await image.readAll() == Qemu.guestBytes(path))
      #expect(try await image.check().isClean)
    }
  }

  /// Writes by chance, with a reopening in their midst, and leaves the file at `path`; returns what the guest sees.
  nonisolated(nonsending)
    private static func write(_ path: String, _ start: [UInt8], _ random: SeededRandom) async throws -> [UInt8]
  {
    var random = random
    var model = ByteModel(byteCount: UInt64(start.count))
    model.write(start, at: 0)
    var file = MemoryDevice(try SparseImage(contentsOf: path))
    for part in 0..<2 {
      let image = try await openImage(
        file, backing: .resolve(backingResolver(besides: path)), cacheByteCount: 64 << 10)
      try await model.check(image, "\(random), opened for part \(part)")
      for _ in 0..<15 { try await step(image, &model, &random) }
      try await model.check(image, "\(random), part \(part)")
      let report = try await image.check()
      #expect(report.isClean, "\(random): \(report)")
      try await image.close()
      file = MemoryDevice(file.image)
    }
    try file.image.dump(to: path)
    return model.bytes
  }

  nonisolated(nonsending)
    private static func step(_ image: Qcow2Image, _ model: inout ByteModel, _ random: inout SeededRandom) async throws
  {
    let cluster = image.clusterByteCount
    let range = random.range(
      within: image.byteCount, alignment: 512, maximum: max(cluster * 3, 20_000),
      near: random.oneIn(2) ? cluster : max(cluster / 32, 512))
    switch random.below(6) {
    case 0, 1:
      let bytes = random.bytes(range.count)
      try await image.writeBytes(bytes, at: range.lowerBound)
      model.write(bytes, at: range.lowerBound)
    case 2:
      try await writeCompressed(image, at: range.lowerBound / UInt64(cluster) * UInt64(cluster), &model, &random)
    case 3:
      try await image.writeZeroes(ByteRange(range), options: random.oneIn(2) ? .mayUnmap : [])
      model.zero(ByteRange(range))
    case 4 where image.header.value.version >= 3 || image.backing == nil:
      let zeroed = try await image.discardable(range)
      try await image.discard(ByteRange(range))
      model.zero(ByteRange(zeroed))
    default: try await image.flush()
    }
  }

  nonisolated(nonsending)
    private static func writeCompressed(
      _ image: Qcow2Image, at offset: UInt64, _ model: inout ByteModel, _ random: inout SeededRandom
    ) async throws
  {
    let cluster = image.clusterByteCount
    let compressor = try ClusterCompressor(type: image.compressionType, clusterByteCount: cluster)
    let noise = random.bytes(random.below(cluster / 2))
    let plain = noise + [UInt8](repeating: UInt8(random.below(256)), count: cluster - noise.count)
    var output = [UInt8](repeating: 0, count: cluster)
    guard let count = compress(plain, compressor, &output) else { return }
    let packed = Array(output[..<count])
    try await image.writeCompressed([.init(guestOffset: offset, byteCount: count)], from: packed.span.bytes)
    model.write(Array(plain.prefix(Int(min(UInt64(cluster), image.byteCount - offset)))), at: offset)
  }
}
