import BlockCore
import BlockTesting
import Buffers
import Glibc
import Testing

@testable import Qcow2

/// Mutated images for a bounded time: everything may fail, nothing may trap, hang, or leave a sound part unsound.
///
/// `FUZZ_SECONDS` says for how long (default 5), `FUZZ_SEED` where to begin. Meant to be run with
/// `--sanitize=address` too; each failure names the seed of its round.
@Suite struct FuzzTests {
  private static func number(_ name: String, default value: UInt64) -> UInt64 {
    getenv(name).flatMap { UInt64(String(cString: $0)) } ?? value
  }

  static let seconds = number("FUZZ_SECONDS", default: 5)
  static let firstSeed = number("FUZZ_SEED", default: 1)
  /// Bytes of guest data and of requests stay small: the tables are what is tried.
  static let guestByteCount = 8 << 20

  /// Sound images of every variant, made by QEMU.
  private struct Corpus: Sendable {
    struct Image: Sendable {
      let name: String
      let file: SparseImage
      let dataFile: SparseImage?
      /// Offsets at which tables begin.
      let tables: [UInt64]
    }

    var images: [Image] = []
  }

  private static let variants = [
    "compat=0.10,cluster_size=512", "compat=1.1,cluster_size=4096,compression_type=zstd", "compat=1.1,refcount_bits=1",
    "compat=1.1,cluster_size=16384,extended_l2=on,refcount_bits=64", "compat=1.1,cluster_size=2M",
    "compat=1.1,cluster_size=4096,lazy_refcounts=on", "compat=1.1,cluster_size=65536,extended_l2=on",
    "compat=1.1,cluster_size=4096,data_file=",
  ]

  nonisolated(nonsending)
    private static func makeCorpus() async throws -> Corpus
  {
    let folder = try TemporaryFolder()
    var corpus = Corpus()
    for (number, variant) in variants.enumerated() {
      let path = folder.file("image\(number)")
      let data = folder.file("data")
      let hasDataFile = variant.hasSuffix("data_file=")
      try Qemu.image(
        "create", "-q", "-f", "qcow2", "-o", hasDataFile ? variant + data : variant, path, "\(guestByteCount)")
      let hasBitmaps = !variant.contains("0.10") && !hasDataFile
      if hasBitmaps {
        try Qemu.image("bitmap", "--add", path, "monday")
        try Qemu.image("bitmap", "--add", "-g", number % 2 == 0 ? "512" : "4096", path, "tuesday")
      }
      if !hasDataFile { try Qemu.io(path, ["write -c -P 9 4M 2M", "write -c -P 8 6M 2M"]) }
      try Qemu.io(path, ["write -P 1 200k 100k", "write -z 64k 70k", "discard 1536k 64k", "write -P 2 1300k 3000"])
      if number % 3 != 2, !hasDataFile {
        try Qemu.image("snapshot", "-c", "one", path)
        try Qemu.io(path, ["write -P 5 210k 40k"])
      }
      if number % 2 == 0, hasBitmaps { try Qemu.image("bitmap", "--disable", path, "tuesday") }
      let file = try SparseImage(contentsOf: path)
      let device = MemoryDevice(file)
      let header = try await Qcow2Header.read(from: device, pool: pool)
      var tables: [UInt64] = [0, 72, 100, 112, header.l1Offset, header.refcountTableOffset, header.snapshotsOffset]
      for place in [header.l1Offset, header.refcountTableOffset] {
        let entry = DamageTests.integer(try await device.readBytes(8, at: place)) & L2Entry.offsetMask
        if entry != 0, entry < file.byteCount { tables.append(entry) }
      }
      if let directory = try header.bitmapDirectory() {
        tables += [120, directory.offset, directory.offset + 32]
        tables += [directory.offset, directory.offset + 32].map { file.integer(at: $0) }
      }
      corpus.images.append(
        .init(
          name: variant, file: file, dataFile: hasDataFile ? try SparseImage(contentsOf: data) : nil, tables: tables))
    }
    return corpus
  }

  @Test func mutatedImagesNeverTrapHangOrLie() async throws {
    try await LoopActor().run { _ in
      let corpus = try await Self.makeCorpus()
      let clock = ContinuousClock()
      let end = clock.now + .seconds(Int(Self.seconds))
      var seed = Self.firstSeed
      var opened = 0
      while clock.now < end {
        var random = SeededRandom(seed: seed)
        let image = corpus.images[random.below(corpus.images.count)]
        var file = image.file
        Self.mutate(&file, image, &random)
        let started = clock.now
        if await Self.use(file, image.dataFile, &random) { opened += 1 }
        #expect(clock.now - started < .seconds(20), "seed \(seed), \(image.name): takes too long")
        #expect(pool.lentByteCount < 256 << 20, "seed \(seed), \(image.name): holds too much memory")
        seed += 1
      }
      print("fuzzed \(seed - Self.firstSeed) images from seed \(Self.firstSeed) on; \(opened) could be opened")
      #expect(opened > 0)
    }
  }

  private static func mutate(_ file: inout SparseImage, _ image: Corpus.Image, _ random: inout SeededRandom) {
    for _ in 0...random.below(4) {
      let table = image.tables[random.below(image.tables.count)]
      // An entry, often one of the first, or any byte.
      let near = table + UInt64(random.below(random.oneIn(2) ? 4 : 40)) * 8
      let offset = random.oneIn(6) ? random.next() % file.byteCount : min(near, file.byteCount - 8)
      let other = image.tables[random.below(image.tables.count)]
      var bytes: [UInt8] = []
      switch random.below(6) {
      case 0: bytes.append(bigEndian: other | UInt64(random.below(2)) << 63)
      case 1: bytes.append(bigEndian: random.next())
      case 2: bytes.append(bigEndian: UInt64(1) << UInt64(random.below(64)) | UInt64(random.below(3)))
      case 3: bytes.append(bigEndian: (other + random.next() % 65536 / 512 * 512) | UInt64(random.below(4)) << 62)
      case 4: bytes = [UInt8(random.below(256))]
      default: bytes = [random.oneIn(2) ? 0xff : 0]
      }
      let mutation = bytes
      if offset + UInt64(mutation.count) <= file.byteCount { file.write(mutation.span.bytes, at: offset) }
    }
    if random.oneIn(15) { file.resize(to: random.next() % file.byteCount) }
  }

  /// Does what can be done with an image; true if it could be opened.
  nonisolated(nonsending)
    private static func use(_ file: SparseImage, _ dataFile: SparseImage?, _ random: inout SeededRandom) async -> Bool
  {
    _ = try? await Qcow2Description.read(from: MemoryDevice(file), pool: pool)
    guard await use(file, dataFile, isReadOnly: true, &random) else { return false }
    _ = await use(file, dataFile, isReadOnly: false, &random)
    return true
  }

  /// Reads all bits, records what can be recorded, and stores and removes some.
  nonisolated(nonsending)
    private static func useBitmaps(of image: Qcow2Image, _ random: inout SeededRandom) async
  {
    guard let bitmaps = try? await image.bitmaps() else { return }
    var readByteCount = 0
    for entry in bitmaps.entries {
      guard let table = try? await image.table(of: entry) else { continue }
      for index in 0..<table.clusterCount where readByteCount < 8 << 20 {
        if table[index] != .zeroes { _ = try? await image.bitsOfCluster(index, of: table) }
        readByteCount += image.clusterByteCount / 64
      }
    }
    if image.isReadOnly { return }
    if random.oneIn(3) { try? await image.setTrackingMark(TrackingMarkTests.mark) }
    for name in bitmaps.entries.map(\.nameBytes) { try? await image.markBitmapsInUse([name]) }
    if image.byteCount <= 64 << 20, random.oneIn(2) {
      var new = TestBitmap("tuesday", granularity: 4096, byteCount: image.byteCount)
      new.isInUse = random.oneIn(2)
      new.isAuto = random.oneIn(2)
      if image.byteCount > 0 { new.mark(0..<UInt64(1 + random.below(Int(image.byteCount)))) }
      try? await image.changeBitmaps([.store(new)])
    }
    if random.oneIn(3), let first = bitmaps.entries.first {
      try? await image.changeBitmaps([.remove(name: first.nameBytes)])
    }
  }

  nonisolated(nonsending)
    private static func use(
      _ file: SparseImage, _ dataFile: SparseImage?, isReadOnly: Bool, _ random: inout SeededRandom
    ) async -> Bool
  {
    let data = MemoryDevice(dataFile ?? SparseImage(byteCount: UInt64(guestByteCount)))
    var options = Qcow2Image.OpenOptions(
      isReadOnly: isReadOnly, mappingCacheByteCount: 32 << 10, refcountCacheByteCount: 32 << 10)
    options.bitmaps = .keep
    let opened = try? await Qcow2Image.open(
      MemoryDevice(file), options: options, backing: .device(MemoryDevice(byteCount: 4096)),
      dataFile: .device(data), work: InlineWork(), pool: pool)
    guard let image = opened else { return false }
    await useBitmaps(of: image, &random)
    let size = image.byteCount
    _ = try? await image.check()
    _ = try? await image.blockStatus(ByteRange(offset: 0, length: size), limit: 100)
    for _ in 0..<12 where size > 0 {
      let range = random.range(within: min(size, UInt64(guestByteCount)), alignment: 512, maximum: 70_000, near: 4096)
      _ = try? await image.readBytes(range.count, at: range.lowerBound)
      if isReadOnly { continue }
      switch random.below(6) {
      case 0...2: try? await image.writeBytes(random.bytes(range.count), at: range.lowerBound)
      case 3: try? await image.discard(ByteRange(range))
      case 4: try? await image.writeZeroes(ByteRange(range), options: .mayUnmap)
      default: try? await image.flush()
      }
    }
    if !isReadOnly {
      _ = try? await image.repairLeaks()
      try? await image.resize(to: size / 512 * 256)
      _ = try? await image.check()
    }
    try? await image.close()
    return true
  }
}
