import BlockCore
import BlockTesting
import Testing

@testable import Qcow2

/// A check is never milder than QEMU's, and what it calls sound can be read, as QEMU reads it.
@Suite struct CheckAgreementTests {
  struct Damage: Sendable, CustomTestStringConvertible {
    var testDescription: String
    var kind: JudgedImage.Kind
    /// Words of the finding.
    var message: String
    /// QEMU takes what the file doesn't have for zeroes, and so finds nothing.
    var isSeenByQemu = true
    var apply: @Sendable (inout SparseImage, JudgedImage) -> Void
  }

  private static let pastEnd: UInt64 = 1 << 30

  static let damages = [
    Damage(testDescription: "data file entry without COPIED", kind: .dataFile, message: "COPIED isn't set") {
      file, image in
      let entry = image.dataEntries[1]
      DamageTests.store(file.integer(at: entry) & ~L2Entry.copiedFlag, at: entry, in: &file)
    },
    Damage(
      testDescription: "data file entry at another offset", kind: .dataFile, message: "not at their guest offset",
      isSeenByQemu: false
    ) { file, image in
      DamageTests.store(file.integer(at: image.dataEntries[1]), at: image.dataEntries[0], in: &file)
    },
    Damage(testDescription: "zero cluster past the end", kind: .plain, message: "past the end") { file, image in
      DamageTests.store(L2Entry.copiedFlag | pastEnd | 1, at: image.dataEntries[0], in: &file)
    },
    Damage(testDescription: "compressed data past the end", kind: .plain, message: "past the end") { file, image in
      // Two sectors more than the file has, and as many as a compressed cluster may take.
      let start = file.byteCount - 1024
      DamageTests.store(L2Entry.compressedFlag | 15 << 58 | start, at: image.dataEntries[0], in: &file)
    },
    Damage(
      testDescription: "refcount table names itself", kind: .plain, message: "is named 2 times"
    ) { file, image in
      DamageTests.store(image.header.refcountTableOffset, at: image.header.refcountTableOffset + 8, in: &file)
    },
    Damage(testDescription: "refcount block is an L2 table", kind: .plain, message: "is named 2 times") {
      file, image in DamageTests.store(image.l2, at: image.header.refcountTableOffset + 8, in: &file)
    },
    Damage(testDescription: "snapshot with short extra data", kind: .snapshots, message: "extra data") { file, image in
      let bytes: [UInt8] = [0, 0, 0, 8]
      file.write(bytes.span.bytes, at: image.header.snapshotsOffset + 36)
    },
    Damage(testDescription: "bitmap of a compressed cluster", kind: .subclusters, message: "of a compressed cluster") {
      file, image in DamageTests.store(1, at: image.l2 + 8, in: &file)
    },
    Damage(testDescription: "L2 table cut", kind: .plain, message: "the file ends inside", isSeenByQemu: false) {
      file, image in
      // The second table, moved behind everything and cut in the middle.
      let end = (file.byteCount + 4095) / 4096 * 4096
      let entry = image.header.l1Offset + 8
      DamageTests.store(L2Entry.copiedFlag | end, at: entry, in: &file)
      file.resize(to: end + 2048)
    },
  ]

  @Test(arguments: damages)
  func damageIsFound(_ damage: Damage) async throws {
    try await LoopActor().run { _ in
      let image = try await JudgedImage(damage.kind)
      var file = image.file
      damage.apply(&file, image)
      let report = try #require(await image.report(on: file))
      #expect(report.findings.contains { $0.kind == .corruption && $0.place.contains(damage.message) }, "\(report)")
      let verdict = try #require(try image.verdict(on: file))
      if damage.isSeenByQemu { #expect(verdict.corruptions > 0) }
    }
  }

  @Test(arguments: JudgedImage.Kind.allCases)
  func checkIsNeverMilderThanQemuAndAgreesWithReading(kind: JudgedImage.Kind) async throws {
    try await LoopActor().run { _ in
      let image = try await JudgedImage(kind)
      #expect(await image.report(on: image.file)?.isClean == true)
      for seed in 0..<UInt64(TestEffort.rounds(10)) {
        var random = SeededRandom(seed: seed)
        var file = image.file
        Self.mutate(&file, image, &random)
        let report = await image.report(on: file)
        let verdict = try image.verdict(on: file)
        guard let report, report.corruptionCount == 0 else { continue }
        #expect(verdict?.corruptions == 0, "\(kind), \(random): \(report), QEMU: \(verdict as Any)")
        guard let verdict else { continue }
        #expect(report.leakCount >= verdict.leaks, "\(kind), \(random): \(report), QEMU: \(verdict)")
        try await Self.compare(image, file, "\(kind), \(random)")
      }
    }
  }

  /// Changes some entries of tables, as a bit that tips over, or a program that goes wrong, does.
  private static func mutate(_ file: inout SparseImage, _ image: JudgedImage, _ random: inout SeededRandom) {
    for _ in 0...random.below(2) {
      let entry = image.entries[random.below(image.entries.count)]
      let old = file.integer(at: entry)
      let other = file.integer(at: image.entries[random.below(image.entries.count)])
      let new: UInt64 =
        switch random.below(6) {
        case 0: old ^ 1 << UInt64(random.below(64))
        case 1: other
        case 2: other ^ L2Entry.copiedFlag
        case 3: old & ~L2Entry.offsetMask | file.byteCount / 4096 * 4096 + UInt64(random.below(3)) * 4096
        case 4: old ^ (random.oneIn(2) ? L2Entry.zeroFlag : L2Entry.copiedFlag)
        default: old ^ UInt64(random.below(256)) << UInt64(random.below(8) * 8)
        }
      DamageTests.store(new, at: entry, in: &file)
    }
    if random.oneIn(8) { file.resize(to: file.byteCount - UInt64(random.below(9000))) }
  }

  /// A sound image reads from end to end, as QEMU reads it: but for what only expanding it could show to be rubbish.
  nonisolated(nonsending)
    private static func compare(_ image: JudgedImage, _ file: SparseImage, _ name: String) async throws
  {
    let bytes: [UInt8]
    do {
      bytes = try await image.open(file).readAll()
    } catch {
      let isRubbish = "\(error)".contains("can't be expanded")
      #expect(isRubbish && (try? Qemu.guestBytes(image.folder.file("image"))) == nil, "\(name): \(error)")
      return
    }
    let expected = try Qemu.guestBytes(image.folder.file("image"))
    #expect(bytes == expected, "\(name): other bytes than QEMU's")
  }
}
