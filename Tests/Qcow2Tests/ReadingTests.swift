import BlockCore
import BlockTesting
import Foundation
import Testing

@testable import Qcow2

/// What QEMU's tools wrote reads the same here.
@Suite struct ReadingTests {
  struct Variant: Sendable, CustomTestStringConvertible {
    var version: Int
    var clusterByteCount: Int
    var compression = "zlib"
    var refcountBits = 16
    /// Files below the image.
    var depth = 0
    var hasSubclusters = false
    var byteCount = (1 << 20) + 5 * 512

    var testDescription: String {
      "v\(version) \(clusterByteCount) \(compression) \(refcountBits) bits, depth \(depth)\(hasSubclusters ? ", subclusters" : ""), \(byteCount) bytes"
    }

    var options: String {
      var options = ["compat=\(version == 2 ? "0.10" : "1.1")", "cluster_size=\(clusterByteCount)"]
      if version > 2 { options += ["compression_type=\(compression)", "refcount_bits=\(refcountBits)"] }
      if hasSubclusters { options.append("extended_l2=on") }
      return options.joined(separator: ",")
    }
  }

  static let variants: [Variant] = [
    Variant(version: 2, clusterByteCount: 512),
    Variant(version: 2, clusterByteCount: 4096, depth: 1),
    Variant(version: 2, clusterByteCount: 65536, depth: 2),
    Variant(version: 2, clusterByteCount: 2 << 20, byteCount: (5 << 20) + 512),
    Variant(version: 3, clusterByteCount: 512, refcountBits: 1),
    Variant(version: 3, clusterByteCount: 512, depth: 3, byteCount: (1 << 20) - 512),
    Variant(version: 3, clusterByteCount: 1024, refcountBits: 2, depth: 1),
    Variant(version: 3, clusterByteCount: 4096, compression: "zstd", refcountBits: 4, depth: 2),
    Variant(version: 3, clusterByteCount: 32768, refcountBits: 64, depth: 1),
    Variant(version: 3, clusterByteCount: 65536, refcountBits: 8, depth: 3),
    Variant(version: 3, clusterByteCount: 65536, compression: "zstd"),
    Variant(version: 3, clusterByteCount: 65536, compression: "zstd", refcountBits: 32, depth: 1),
    Variant(version: 3, clusterByteCount: 2 << 20, compression: "zstd", depth: 1, byteCount: (9 << 20) + 512),
    Variant(version: 3, clusterByteCount: 4096, byteCount: 512),
    Variant(version: 3, clusterByteCount: 16384, hasSubclusters: true),
    Variant(version: 3, clusterByteCount: 65536, compression: "zstd", depth: 2, hasSubclusters: true),
    Variant(version: 3, clusterByteCount: 2 << 20, depth: 1, hasSubclusters: true, byteCount: (9 << 20) + 512),
  ]

  @Test(.eachToolVersion, arguments: variants)
  func imageMadeByQemuReadsTheSame(_ variant: Variant) async throws {
    let folder = try TemporaryFolder()
    let path = try Self.make(variant, in: folder, random: SeededRandom(seed: 11))
    let expected = try Qemu.guestBytes(path)
    try await LoopActor().run { _ in
      let image = try await openFile(path)
      #expect(image.byteCount == UInt64(variant.byteCount))
      let found = try await image.readAll()
      #expect(found == expected)
      // Small reads at odd places, from caches that are full of something else.
      var random = SeededRandom(seed: 12)
      for _ in 0..<50 {
        let range = random.range(
          within: image.byteCount, alignment: 1, maximum: 100_000, near: variant.clusterByteCount)
        let bytes = try await image.readBytes(range.count, at: range.lowerBound)
        #expect(bytes == Array(expected[Int(range.lowerBound)..<Int(range.upperBound)]), "\(range)")
      }
      let extents = try await image.wholeStatus(ByteRange(offset: 0, length: image.byteCount), limit: 3)
      #expect(extents.reduce(0) { $0 + $1.range.length } == image.byteCount)
      for extent in extents where extent.readsAsZero {
        let bytes = expected[Int(extent.range.offset)..<Int(extent.range.end)]
        #expect(bytes.allSatisfy { $0 == 0 }, "\(extent)")
      }
      let report = try await image.check()
      #expect(report.isClean, "\(report)")
      try await image.close()
    }
  }

  /// A chain of images with plain, compressed, zero and discarded clusters in each.
  static func make(_ variant: Variant, in folder: TemporaryFolder, random: SeededRandom) throws -> String {
    var random = random
    var below: (name: String, format: String)?
    if variant.depth > 0 {
      // Longer or shorter than what stands on it.
      let count =
        variant.byteCount + (variant.depth % 2 == 0 ? -min(variant.byteCount / 3 / 512 * 512, 70000 / 512 * 512) : 4096)
      try Data(random.bytes(count)).write(to: URL(fileURLWithPath: folder.file("base.raw")))
      below = ("base.raw", "raw")
    }
    var path = ""
    for layer in 0..<max(variant.depth, 1) {
      let name = "layer\(layer).qcow2"
      path = folder.file(name)
      // Inner layers are of the other version, and of another size.
      let byteCount = variant.byteCount - (layer + 1 < variant.depth ? min(66048, variant.byteCount - 512) : 0)
      var arguments = ["create", "-q", "-f", "qcow2", "-o", variant.options]
      if let below { arguments += ["-b", below.name, "-F", below.format] }
      let (status, output) = try Qemu.run("qemu-img", arguments + [path, "\(byteCount)"])
      if status != 0 { throw Qemu.Failure(description: output) }
      try Qemu.io(path, commands(variant, byteCount, &random), options: ["-d", "unmap"])
      below = (name, "qcow2")
    }
    return path
  }

  private static func commands(_ variant: Variant, _ byteCount: Int, _ random: inout SeededRandom) -> [String] {
    let cluster = variant.clusterByteCount
    var commands: [String] = []
    // QEMU compresses only into clusters that aren't allocated: these come first, each once.
    for index in Set((0..<8).map { _ in random.below((byteCount + cluster - 1) / cluster) }).sorted() {
      let place = "\(index * cluster) \(min(cluster, byteCount - index * cluster))"
      commands.append("write -c -P \(100 + commands.count) \(place)")
    }
    for number in 0..<20 {
      let range = random.range(
        within: UInt64(byteCount), alignment: 512, maximum: max(cluster * 5, 20000),
        near: number % 3 == 0 ? cluster / 32 : cluster)
      let place = "\(range.lowerBound) \(range.count)"
      switch number % 4 {
      case 0, 1: commands.append("write -P \(1 + number) \(place)")
      case 2: commands.append("write -z \(random.oneIn(2) ? "-u " : "")\(place)")
      default: commands.append("discard \(place)")
      }
    }
    return commands
  }

  @Test(.eachToolVersion, arguments: ["zlib", "zstd"])
  func imageCompressedByQemuReadsTheSame(compression: String) async throws {
    let folder = try TemporaryFolder()
    var random = SeededRandom(seed: 5)
    // From incompressible to constant, a cluster each.
    let bytes = (0..<40).flatMap { number in
      let noise = 8192 * (number % 9)
      return random.bytes(noise) + [UInt8](repeating: UInt8(number), count: 65536 - noise)
    }
    try Data(bytes).write(to: URL(fileURLWithPath: folder.file("raw")))
    let path = folder.file("image")
    try Qemu.image(
      "convert", "-c", "-f", "raw", "-O", "qcow2", "-o", "compression_type=\(compression)", folder.file("raw"), path)
    try await LoopActor().run { _ in
      let image = try await openFile(path)
      #expect(try await image.readAll() == bytes)
      let status = try await image.wholeStatus(ByteRange(offset: 0, length: image.byteCount))
      #expect(status.contains { $0.status == .compressed })
      #expect(try await image.check().isClean)
      try await image.close()
    }
  }

  @Test func cachedReadsNeedNoSuspension() async throws {
    try await LoopActor().run { _ in
      let (file, image) = try await makeImage(.init(virtualByteCount: 1 << 20))
      try await image.writeBytes([UInt8](repeating: 3, count: 70000), at: 100)
      let reads = file.calls[.read]
      var bytes = [UInt8](repeating: 9, count: 200_000)
      var span = bytes.mutableSpan
      var raw = span.mutableBytes
      #expect(try image.tryRead(into: &raw, at: 0))
      #expect(file.calls[.read] == reads)
      let found = [bytes[99], bytes[100], bytes[70099], bytes[70100]]
      #expect(found == [0, 3, 3, 0])
      try await image.close()
    }
  }
}
