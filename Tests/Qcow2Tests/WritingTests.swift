import BlockCore
import BlockTesting
import Foundation
import Testing

@testable import Qcow2

/// What we write is what the model says, to us and to QEMU, and QEMU finds nothing wrong with the file.
@Suite struct WritingTests {
  struct Variant: Sendable, CustomTestStringConvertible {
    var clusterByteCount: Int
    var compressionType: CompressionType = .zlib
    var refcountBits = 16
    var hasBacking = false
    var hasSubclusters = false
    var byteCount: UInt64 = (1 << 20) + 7 * 512
    /// What the device under the image wants, as a file open for direct I/O.
    var alignment = 1

    var device: MemoryDevice.Options {
      var options = MemoryDevice.Options()
      options.limits.requestAlignment = alignment
      return options
    }

    var testDescription: String {
      "\(clusterByteCount) \(compressionType) \(refcountBits) bits\(hasBacking ? ", backing" : "")\(hasSubclusters ? ", subclusters" : "")\(alignment > 1 ? ", blocks of \(alignment)" : "")"
    }
  }

  static let variants: [Variant] = [
    Variant(clusterByteCount: 4096, compressionType: .zstd, alignment: 512),
    Variant(clusterByteCount: 1024, hasBacking: true, alignment: 4096),
    Variant(clusterByteCount: 65536, compressionType: .zstd, hasBacking: true, alignment: 4096),
    Variant(clusterByteCount: 512),
    Variant(clusterByteCount: 512, refcountBits: 64, hasBacking: true),
    Variant(clusterByteCount: 1024, refcountBits: 1),
    Variant(clusterByteCount: 4096, compressionType: .zstd, refcountBits: 4, hasBacking: true),
    Variant(clusterByteCount: 4096, refcountBits: 32),
    Variant(clusterByteCount: 65536, compressionType: .zstd, hasBacking: true),
    Variant(clusterByteCount: 65536, refcountBits: 2),
    Variant(clusterByteCount: 2 << 20, compressionType: .zstd, byteCount: (9 << 20) + 512),
    Variant(clusterByteCount: 16384, hasSubclusters: true),
    Variant(clusterByteCount: 65536, compressionType: .zstd, hasBacking: true, hasSubclusters: true),
    Variant(clusterByteCount: 128 << 10, hasBacking: true, hasSubclusters: true, byteCount: (2 << 20) + 512),
    Variant(clusterByteCount: 2 << 20, refcountBits: 8, hasSubclusters: true, byteCount: (9 << 20) + 512),
  ]

  @Test(arguments: variants)
  func randomOperationsMatchTheModelAndPassQemuCheck(_ variant: Variant) async throws {
    let seed: UInt64 = 2026
    let folder = try TemporaryFolder()
    let story = try await LoopActor().run { _ in
      let story = try await Story(variant, seed: seed)
      for _ in 0..<TestEffort.rounds(3) {
        for _ in 0..<80 { try await story.step() }
        try await story.reopen()
        try await story.model.check(story.image, "reopened, seed \(seed)")
        #expect(try await story.image.check().isClean)
      }
      try await story.image.close()
      return story
    }
    let path = folder.file("image.qcow2")
    try story.file.image.dump(to: path)
    if let below = story.below { try below.dump(to: folder.file("base.raw")) }
    #expect(try Qemu.check(path) == .clean, "seed \(seed)")
    #expect(try Qemu.guestBytes(path) == story.model.bytes, "seed \(seed)")
  }

  /// Alternating with QEMU's versions on one file.
  @Test(
    arguments: [512, 65536],
    ["", ",extended_l2=on", ",lazy_refcounts=on", ",data_file=data", ",data_file=data,data_file_raw=on"])
  func alternatingWithQemuKeepsEverything(clusterByteCount: Int, options: String) async throws {
    if clusterByteCount == 512, options.contains("extended") { return }
    let folder = try TemporaryFolder()
    let path = folder.file("image.qcow2")
    let data = folder.file("data")
    try Qemu.image(
      "create", "-q", "-f", "qcow2", "-o",
      "cluster_size=\(clusterByteCount)" + options.replacing("=data", with: "=" + data), path, "1M")
    for round in 0..<3 {
      try ToolVersion.$current.withValue(.ofTurn(round)) {
        try Qemu.io(
          path, ["write -P \(round + 1) \(round * 99840) 150000", "discard 131072 65536", "write -z 300544 7680"])
      }
      var model = ByteModel(byteCount: 1 << 20)
      model.write(try Qemu.guestBytes(path), at: 0)
      let start = model
      model = try await LoopActor().run { _ in
        var model = start
        let file = MemoryDevice(try SparseImage(contentsOf: path))
        let hasDataFile = options.contains("data_file")
        let dataFile = MemoryDevice(hasDataFile ? try SparseImage(contentsOf: data) : SparseImage(byteCount: 0))
        let image = try await openImage(file, dataFile: .device(dataFile))
        try await model.check(image, "what QEMU left")
        #expect(try await image.check().isClean)
        var random = SeededRandom(seed: UInt64(round))
        for _ in 0..<20 {
          let range = random.range(within: 1 << 20, alignment: 512, maximum: 60000, near: clusterByteCount)
          let bytes = random.bytes(range.count)
          try await image.writeBytes(bytes, at: range.lowerBound)
          model.write(bytes, at: range.lowerBound)
          let zeroes = random.range(within: 1 << 20, alignment: 512, maximum: 30000, near: clusterByteCount / 32)
          try await image.writeZeroes(ByteRange(zeroes), options: random.oneIn(2) ? .mayUnmap : [])
          model.zero(ByteRange(zeroes))
        }
        try await model.check(image, "what we wrote")
        try await image.close()
        try file.image.dump(to: path)
        if hasDataFile {
          try dataFile.image.dump(to: data)
          if options.contains("raw") {
            try await model.check(MemoryDevice(dataFile.image), "the data file as a raw image")
          }
        }
        return model
      }
      #expect(try Qemu.check(path) == .clean)
      #expect(try Qemu.guestBytes(path) == model.bytes)
    }
  }

  @Test(.eachToolVersion) func version2ImageIsWrittenInItsOwnWay() async throws {
    let folder = try TemporaryFolder()
    var random = SeededRandom(seed: 8)
    let base = random.bytes(700 * 512)
    try Data(base).write(to: URL(fileURLWithPath: folder.file("base.raw")))
    let path = folder.file("image.qcow2")
    try Qemu.image(
      "create", "-q", "-f", "qcow2", "-o", "compat=0.10,cluster_size=4096", "-b", "base.raw", "-F", "raw", path, "1M")
    let expected = try await LoopActor().run { _ in
      let file = MemoryDevice(try SparseImage(contentsOf: path))
      let backing = MemoryDevice(try SparseImage(contentsOf: folder.file("base.raw")))
      let image = try await openImage(file, backing: .device(backing))
      var model = ByteModel(byteCount: 1 << 20)
      model.write(base, at: 0)
      try await image.writeBytes([UInt8](repeating: 7, count: 300_000), at: 200_000)
      model.write([UInt8](repeating: 7, count: 300_000), at: 200_000)
      for range in [ByteRange(offset: 100, length: 30000), ByteRange(offset: 340_000, length: 60_000)] {
        try await image.writeZeroes(range, options: .mayUnmap)
        model.zero(range)
      }
      // No zero clusters: dropping a cluster would let the backing file show.
      try await image.discard(ByteRange(offset: 204_800, length: 8192))
      try await model.check(image, "version 2")
      try await image.close()
      try file.image.dump(to: path)
      return model.bytes
    }
    #expect(try Qemu.check(path) == .clean)
    #expect(try Qemu.guestBytes(path) == expected)
  }

  @Test(.eachToolVersion) func clustersOfSnapshotsAreNotTouched() async throws {
    let folder = try TemporaryFolder()
    let path = folder.file("image.qcow2")
    try Qemu.image("create", "-q", "-f", "qcow2", "-o", "cluster_size=4096", path, "4M")
    try Qemu.io(path, ["write -P 1 0 2M", "write -c -P 2 2M 4096", "write -z 3M 64k"])
    try Qemu.image("snapshot", "-c", "before", path)
    let before = try Qemu.guestBytes(path)
    let after = try await LoopActor().run { _ in
      let file = MemoryDevice(try SparseImage(contentsOf: path))
      let image = try await openImage(file)
      var model = ByteModel(byteCount: 4 << 20)
      model.write(before, at: 0)
      var random = SeededRandom(seed: 3)
      for _ in 0..<60 {
        let range = random.range(within: 4 << 20, alignment: 512, maximum: 30000, near: 4096)
        if random.oneIn(4) {
          try await image.writeZeroes(ByteRange(range), options: random.oneIn(2) ? .mayUnmap : [])
          model.zero(ByteRange(range))
        } else {
          let bytes = random.bytes(range.count)
          try await image.writeBytes(bytes, at: range.lowerBound)
          model.write(bytes, at: range.lowerBound)
        }
      }
      try await model.check(image, "with a snapshot")
      #expect(try await image.check().isClean)
      try await image.close()
      try file.image.dump(to: path)
      return model.bytes
    }
    #expect(try Qemu.check(path) == .clean)
    #expect(try Qemu.guestBytes(path) == after)
    try Qemu.image("snapshot", "-a", "before", path)
    #expect(try Qemu.guestBytes(path) == before)
  }

  @Test func discardNeverShowsTheBackingFile() async throws {
    try await LoopActor().run { _ in
      let backing = MemoryDevice(byteCount: 1 << 20)
      try await backing.writeBytes([UInt8](repeating: 5, count: 1 << 20), at: 0)
      let (_, image) = try await makeImage(
        .init(virtualByteCount: 1 << 20, backing: .init(name: "base", format: "raw")), backing: .device(backing))
      try await image.writeBytes([UInt8](repeating: 6, count: 65536), at: 65536)
      try await image.discard(ByteRange(offset: 0, length: 3 * 65536 + 100))
      let bytes = try await image.readAll()
      #expect(bytes[..<(3 * 65536)].allSatisfy { $0 == 0 })
      #expect(bytes[(3 * 65536)...].allSatisfy { $0 == 5 })
      try await image.close()
    }
  }

  @Test func sequentialWritesBecomeLargeRequests() async throws {
    try await LoopActor().run { _ in
      let (file, image) = try await makeImage(.init(virtualByteCount: 64 << 20))
      let bytes = [UInt8](repeating: 1, count: 4 << 20)
      for number in 0..<16 { try await image.writeBytes(bytes, at: UInt64(number) * (4 << 20)) }
      // One request for each of ours, and nothing for the tables before the flush.
      #expect(file.calls[.write] <= 16 + 6)
      try await image.close()
    }
  }

  /// The table moves to larger and larger runs of clusters as the file grows.
  @Test(arguments: [(512, 64), (512, 8), (1024, 64)])
  func refcountTableThatMovesGivesItsOldClustersBack(clusterByteCount: Int, refcountBits: Int) async throws {
    try await LoopActor().run { _ in
      let (file, image) = try await makeImage(
        .init(virtualByteCount: 48 << 20, clusterByteCount: clusterByteCount, refcountBits: refcountBits))
      let first = try await Qcow2Header.read(from: MemoryDevice(file.image), pool: pool).refcountTableOffset
      let bytes = [UInt8](repeating: 1, count: 1 << 20)
      for number in 0..<24 { try await image.writeBytes(bytes, at: UInt64(number) << 20) }
      try await image.flush()
      let report = try await image.check()
      #expect(report.isClean, "\(report)")
      try await image.close()
      let last = try await Qcow2Header.read(from: MemoryDevice(file.image), pool: pool).refcountTableOffset
      #expect(first != last, "the table has moved")
    }
  }

  @Test func unknownAutoclearBitsAreClearedAndTheRestOfTheHeaderStays() async throws {
    try await LoopActor().run { _ in
      let (made, empty) = try await makeImage(.init(virtualByteCount: 1 << 20))
      try await empty.close()
      let file = MemoryDevice(made.image)
      var header = try await Qcow2Header.read(from: file, pool: pool)
      header.autoclear = .init(rawValue: 1 << 63 | 1 << 17)
      header.extensions.append(HeaderExtension(type: 0xdead_beef, contents: Array("unknown".utf8)))
      let encoded = try header.encoded()
      file.image.write(encoded.span.bytes, at: 0)
      let reader = try await openImage(MemoryDevice(file.image), isReadOnly: true)
      try await reader.close()
      let unchanged = try await Qcow2Header.read(from: file, pool: pool)
      #expect(unchanged == header)
      let image = try await openImage(file)
      try await image.writeBytes([1], at: 77)
      let changed = try await Qcow2Header.read(from: MemoryDevice(file.image), pool: pool)
      try await image.close()
      header.autoclear = []
      #expect(changed == header)
    }
  }
}
