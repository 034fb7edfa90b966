import BlockCore
import BlockTesting
import Foundation
import Testing

@testable import Qcow2

/// Files that nobody vouches for: an error that names the place, never a trap, a hang or wrong bytes taken as right.
@Suite struct DamageTests {
  /// An image of 1 MiB with 4 KiB clusters: plain, compressed and zero ones. Closed; only its file remains.
  nonisolated(nonsending)
    static func soundImage(_ type: CompressionType = .zlib) async throws -> SparseImage
  {
    let (file, image) = try await makeImage(
      .init(virtualByteCount: 1 << 20, clusterByteCount: 4096, compressionType: type))
    var random = SeededRandom(seed: 1)
    try await image.writeBytes(random.bytes(50_000), at: 8192)
    let compressor = try ClusterCompressor(type: type, clusterByteCount: 4096)
    var output = [UInt8](repeating: 0, count: 4096)
    let count = try #require(compress(random.bytes(2000) + [UInt8](repeating: 1, count: 2096), compressor, &output))
    let packed = Array(output[..<count])
    try await image.writeCompressed([.init(guestOffset: 0, byteCount: count)], from: packed.span.bytes)
    try await image.writeZeroes(ByteRange(offset: 100 << 12, length: 9 << 12), options: [])
    try await image.close()
    return file.image
  }

  /// Places of the tables of `soundImage`.
  nonisolated(nonsending)
    static func places(_ file: SparseImage) async throws -> (l1: UInt64, l2: UInt64, table: UInt64, block: UInt64)
  {
    let device = MemoryDevice(file)
    let header = try await Qcow2Header.read(from: device, pool: pool)
    let l2 = Self.integer(try await device.readBytes(8, at: header.l1Offset))
    let block = Self.integer(try await device.readBytes(8, at: header.refcountTableOffset))
    return (header.l1Offset, l2 & L2Entry.offsetMask, header.refcountTableOffset, block)
  }

  static func integer(_ bytes: [UInt8]) -> UInt64 { bytes.reduce(0) { $0 << 8 | UInt64($1) } }

  static func store(_ value: UInt64, at offset: UInt64, in file: inout SparseImage) {
    var bytes: [UInt8] = []
    bytes.append(bigEndian: value)
    file.write(bytes.span.bytes, at: offset)
  }

  struct Damage: Sendable, CustomTestStringConvertible {
    var testDescription: String
    /// The 64-bit entry in the L1 table, or in the first L2 table, that is overwritten.
    var l1Entry: Int?
    var l2Entry: Int?
    var value: UInt64
    /// What the error says.
    var message: String
  }

  static let damages = [
    Damage(testDescription: "L2 table past the end", l1Entry: 0, value: 1 << 63 | 1 << 40, message: "L1 entry 0"),
    Damage(testDescription: "L2 table misaligned", l1Entry: 0, value: 1 << 63 | 0x5200, message: "L1 entry 0"),
    Damage(testDescription: "L2 table in the header", l1Entry: 0, value: 1 << 63, message: "L1 entry 0"),
    Damage(testDescription: "L1 reserved bits", l1Entry: 0, value: 1 << 63 | 1 << 58 | 0x5000, message: "L1 entry 0"),
    Damage(testDescription: "data past the end", l2Entry: 2, value: 1 << 63 | 1 << 50, message: "past the end"),
    Damage(testDescription: "data misaligned", l2Entry: 2, value: 1 << 63 | 0x5200, message: "not that of a cluster"),
    Damage(testDescription: "data at 0", l2Entry: 2, value: 1 << 63, message: "offset 0"),
    Damage(testDescription: "L2 reserved bits", l2Entry: 2, value: 1 << 63 | 0x5002, message: "reserved bits"),
    Damage(
      testDescription: "compressed past the end", l2Entry: 2, value: 1 << 62 | 1 << 50, message: "outside of the file"),
    Damage(
      testDescription: "compressed in the header", l2Entry: 2, value: 1 << 62 | 60, message: "outside of the file"),
    Damage(
      testDescription: "compressed rubbish", l2Entry: 2, value: 1 << 62 | 3 << 58 | 0x1_0000,
      message: "can't be expanded"),
  ]

  @Test(arguments: damages)
  func damagedTableIsAnErrorWithItsPlace(_ damage: Damage) async throws {
    try await LoopActor().run { _ in
      var file = try await Self.soundImage()
      let places = try await Self.places(file)
      if let entry = damage.l1Entry { Self.store(damage.value, at: places.l1 + UInt64(entry) * 8, in: &file) }
      if let entry = damage.l2Entry { Self.store(damage.value, at: places.l2 + UInt64(entry) * 8, in: &file) }
      if damage.l1Entry != nil { await #expect(throws: Qcow2Error.self) { try await openImage(MemoryDevice(file)) } }
      let image = try await openImage(MemoryDevice(file), isReadOnly: damage.l1Entry != nil)
      for operation in ["read", "write", "zero"] {
        if operation != "read", damage.l1Entry != nil || damage.message.contains("expanded") { continue }
        do throws(BlockError) {
          switch operation {
          case "read": _ = try await image.readBytes(100, at: 8192 + 7)
          case "write": try await image.writeBytes([1], at: 8192 + 7)
          default: try await image.writeZeroes(ByteRange(offset: 8192, length: 4096), options: [])
          }
          Issue.record("\(operation) succeeded")
        } catch {
          guard case .corrupt(let text) = error.kind else { throw error }
          #expect(text.contains(damage.message))
        }
      }
      // The rest of the image is still at hand where the table is.
      if damage.l2Entry != nil { _ = try await image.readBytes(4096, at: 12288) }
      if !damage.message.contains("expanded") {
        let report = try await image.check()
        #expect(report.corruptionCount > 0)
      }
      try? await image.close()
    }
  }

  @Test func writesNeverGoIntoTables() async throws {
    try await LoopActor().run { _ in
      let sound = try await Self.soundImage()
      let places = try await Self.places(sound)
      for target in [places.l1, places.table] {
        var file = sound
        Self.store(1 << 63 | target, at: places.l2 + 16, in: &file)
        let device = MemoryDevice(file)
        let image = try await openImage(device)
        await #expect(throws: BlockError.self) { try await image.writeBytes([1], at: 8192) }
        try? await image.close()
        #expect(try await MemoryDevice(file).readAll() == device.readBytes(Int(file.byteCount), atOfClosed: 0))
      }
      // Refcounts that call everything free would have the header handed out.
      var file = sound
      let zeroes = [UInt8](repeating: 0, count: 4096)
      file.write(zeroes.span.bytes, at: places.block)
      let image = try await openImage(MemoryDevice(file))
      await #expect(throws: BlockError.self) { try await image.writeBytes([1], at: 1 << 19) }
      try? await image.close()
    }
  }

  @Test func checkTellsLeaksAndCorruptionsAsQemuDoes() async throws {
    let folder = try TemporaryFolder()
    try await LoopActor().run { _ in
      let sound = try await Self.soundImage()
      let places = try await Self.places(sound)
      let changes: [(name: String, offset: UInt64, bytes: [UInt8])] = [
        ("leak", places.block + 2 * 100, [0, 1]),
        ("count too low", places.block + 2 * 6, [0, 0]),
        ("count too high", places.block + 2 * 6, [0, 9]),
        ("entry dropped", places.l2 + 16, [UInt8](repeating: 0, count: 8)),
        ("copied missing", places.l2 + 16, [0]),
      ]
      for change in changes {
        var file = sound
        file.resize(to: 120 << 12)
        file.write(change.bytes.span.bytes, at: change.offset)
        let image = try await openImage(MemoryDevice(file), isReadOnly: true)
        let report = try await image.check()
        try file.dump(to: folder.file("image"))
        let verdict = try Qemu.check(folder.file("image"))
        #expect(
          (report.corruptionCount > 0) == (verdict.corruptions > 0), "\(change.name): \(report), QEMU: \(verdict)")
        #expect((report.leakCount > 0) == (verdict.leaks > 0), "\(change.name): \(report), QEMU: \(verdict)")
        #expect(!report.isClean && !report.findings.isEmpty, "\(change.name)")
      }
    }
  }

  /// A few hundred images with some bytes of their tables changed by chance.
  @Test(arguments: [CompressionType.zlib, .zstd])
  func mutatedImagesNeverTrapOrHang(type: CompressionType) async throws {
    try await LoopActor().run { _ in
      let sound = try await Self.soundImage(type)
      let places = try await Self.places(sound)
      let hot = [
        0, 24, 36, 40, 48, 56, 60, 64, 72, 96, 100, 104, 112, places.l1, places.l2, places.table, places.block,
      ]
      var random = SeededRandom(seed: 99)
      for round in 0..<TestEffort.rounds(300) {
        var file = sound
        for _ in 0...random.below(4) {
          let near = hot[random.below(hot.count)]
          let offset = random.oneIn(5) ? UInt64(random.below(Int(file.byteCount))) : near + UInt64(random.below(32))
          let byte = [random.oneIn(3) ? 0xff : UInt8(random.below(256))]
          file.write(byte.span.bytes, at: min(offset, file.byteCount - 1))
        }
        if random.oneIn(10) { file.resize(to: UInt64(random.below(Int(file.byteCount)))) }
        await Self.use(file, isReadOnly: round % 2 == 0, &random)
      }
    }
  }

  /// Does what can be done with an image; everything may fail, nothing may trap.
  nonisolated(nonsending)
    private static func use(_ file: SparseImage, isReadOnly: Bool, _ random: inout SeededRandom) async
  {
    let device = MemoryDevice(file)
    _ = try? await Qcow2Description.read(from: device, pool: pool)
    guard let image = try? await openImage(device, isReadOnly: isReadOnly, cacheByteCount: 32 << 10) else { return }
    let size = image.byteCount
    _ = try? await image.check()
    _ = try? await image.blockStatus(ByteRange(offset: 0, length: size), limit: 100)
    for _ in 0..<20 where size > 0 {
      let range = random.range(within: min(size, 1 << 20), alignment: 512, maximum: 9000, near: 4096)
      _ = try? await image.readBytes(range.count, at: range.lowerBound)
      if isReadOnly { continue }
      if random.oneIn(2) {
        try? await image.writeBytes(random.bytes(range.count), at: range.lowerBound)
      } else {
        try? await image.discard(ByteRange(range))
      }
    }
    try? await image.close()
  }
}

extension MemoryDevice {
  /// The bytes that a closed device was left with.
  func readBytes(_ count: Int, atOfClosed offset: UInt64) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: count)
    var span = bytes.mutableSpan
    var raw = span.mutableBytes
    image.read(into: &raw, at: offset)
    return bytes
  }
}
