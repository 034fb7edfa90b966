import BlockTesting

@testable import Qcow2

/// A sound image, where its tables are, and how to damage it.
struct DamagedImage: Sendable {
  enum Base: Sendable, CaseIterable { case plain, version2, subclusters, snapshots, bitmaps }

  /// What shows the damage, and the words that name it.
  enum Expectation: Sendable {
    /// The image isn't opened at all, or not to be written.
    case open(String)
    case openToWrite(String)
    /// An operation on the image's first clusters, or on clusters that aren't stored yet.
    case read(String)
    case write(String)
    case zero(String)
    case writeNew(String)
    /// What our check finds.
    case corruption(String)
    case leak(String)
  }

  /// Places in the file, in bytes.
  struct Places: Sendable {
    var l1: UInt64 = 0
    /// The first L2 table.
    var l2: UInt64 = 0
    var table: UInt64 = 0
    var block: UInt64 = 0
    var snapshots: UInt64 = 0
    var end: UInt64 = 0

    /// The first snapshot's L1 table, and the first L2 table that it names.
    func snapshotL1(_ file: SparseImage) -> UInt64 { file.integer(at: snapshots) }
    func snapshotL2(_ file: SparseImage) -> UInt64 { file.integer(at: snapshotL1(file)) & L2Entry.offsetMask }
  }

  var name: String
  var base: Base
  var expectation: Expectation
  /// QEMU comes to the same verdict where it can judge; nil where it can't, or looks at less or more than we do.
  var isJudgedByQemu: Bool
  var damage: @Sendable (inout SparseImage, Places) -> Void

  init(
    _ name: String, _ base: Base, judged: Bool = true, _ expectation: Expectation,
    _ damage: @escaping @Sendable (inout SparseImage, Places) -> Void
  ) {
    self.name = name
    self.base = base
    self.expectation = expectation
    isJudgedByQemu = judged
    self.damage = damage
  }

  /// Of the plain image.
  init(
    _ name: String, judged: Bool = true, _ expectation: Expectation,
    _ damage: @escaping @Sendable (inout SparseImage, Places) -> Void
  ) {
    self.init(name, .plain, judged: judged, expectation, damage)
  }

  static let clusterByteCount: UInt64 = 4096
  static let copied: UInt64 = 1 << 63
  static let compressed: UInt64 = 1 << 62
}

extension SparseImage {
  mutating func put<Integer: FixedWidthInteger>(_ value: Integer, at offset: UInt64) {
    var bytes: [UInt8] = []
    bytes.append(bigEndian: value)
    write(bytes.span.bytes, at: offset)
  }

  /// Where the header extensions of an image made by QEMU or us end: behind the end mark.
  fileprivate mutating func putExtension(_ type: UInt32, length: UInt32) {
    put(type, at: 112)
    put(length, at: 116)
  }
}

extension DamagedImage {
  static let headers: [DamagedImage] = [
    DamagedImage("magic", .open("magic bytes")) { file, _ in file.put(UInt32(0x5146_4900), at: 0) },
    DamagedImage("version 1", .open("version 1")) { file, _ in file.put(UInt32(1), at: 4) },
    DamagedImage("version 4", .open("version 4")) { file, _ in file.put(UInt32(4), at: 4) },
    DamagedImage("clusters of 256 bytes", .open("cluster_bits is 8")) { file, _ in file.put(UInt32(8), at: 20) },
    DamagedImage("clusters of 4 MiB", .open("cluster_bits is 22")) { file, _ in file.put(UInt32(22), at: 20) },
    DamagedImage("absurd clusters", .open("cluster_bits")) { file, _ in file.put(UInt32.max, at: 20) },
    DamagedImage("odd size", .open("multiple of 512")) { file, _ in file.put(UInt64(1_000_001), at: 24) },
    DamagedImage("size 2^63", .open("multiple of 512")) { file, _ in file.put(UInt64(1) << 63, at: 24) },
    DamagedImage("size beyond the L1 table", .open("too few")) { file, _ in file.put(UInt64(1) << 40, at: 24) },
    DamagedImage("AES", .open("AES")) { file, _ in file.put(UInt32(1), at: 32) },
    DamagedImage("LUKS", .open("LUKS")) { file, _ in file.put(UInt32(2), at: 32) },
    DamagedImage("unknown encryption", .open("encryption method 3")) { file, _ in file.put(UInt32(3), at: 32) },
    DamagedImage("absurd L1 size", .open("L1 table has")) { file, _ in file.put(UInt32.max, at: 36) },
    DamagedImage("L1 size 0", .open("too few")) { file, _ in file.put(UInt32(0), at: 36) },
    DamagedImage("L1 table at 0", .open("L1 table's offset 0")) { file, _ in file.put(UInt64(0), at: 40) },
    DamagedImage("L1 table misaligned", .open("L1 table's offset")) { file, p in file.put(p.l1 + 8, at: 40) },
    DamagedImage("L1 table past the end", .open("reaches past the end")) { file, _ in file.put(UInt64(1) << 40, at: 40)
    },
    DamagedImage("L1 table at 2^64", .open("reaches past the end")) { file, _ in
      file.put(UInt64.max - 4095, at: 40)
    },
    DamagedImage("refcount table at 0", .open("refcount table's offset")) { file, _ in file.put(UInt64(0), at: 48) },
    DamagedImage("refcount table misaligned", .open("refcount table's")) { file, p in file.put(p.table + 512, at: 48) },
    DamagedImage("refcount table past the end", .open("past the end")) { file, _ in file.put(UInt64(1) << 50, at: 48) },
    DamagedImage("no refcount table", .open("refcount table has 0")) { file, _ in file.put(UInt32(0), at: 56) },
    DamagedImage("absurd refcount table", .open("refcount table has")) { file, _ in file.put(UInt32.max, at: 56) },
    DamagedImage("refcount table longer than the file", .open("past the end")) { file, _ in
      file.put(UInt32(2000), at: 56)
    },
    DamagedImage("too many snapshots", .open("70000 snapshots")) { file, _ in file.put(UInt32(70000), at: 60) },
    DamagedImage("snapshot table misaligned", .open("snapshot table's offset")) { file, p in
      file.put(UInt32(1), at: 60)
      file.put(p.l2 + 8, at: 64)
    },
    DamagedImage("snapshot table past the end", .open("snapshot table")) { file, _ in
      file.put(UInt32(1), at: 60)
      file.put(UInt64(1) << 40, at: 64)
    },
    DamagedImage("unknown bit", .open("bit 9")) { file, _ in file.put(UInt64(1) << 9, at: 72) },
    DamagedImage("unknown highest bit", .open("bit 63")) { file, _ in file.put(UInt64(1) << 63, at: 72) },
    DamagedImage("marked corrupt", .openToWrite("marked corrupt")) { file, _ in file.put(UInt64(2), at: 72) },
    DamagedImage("no data file", .open("external data file")) { file, _ in file.put(UInt64(4), at: 72) },
    DamagedImage("compression bit alone", .open("contradicts")) { file, _ in file.put(UInt64(8), at: 72) },
    DamagedImage("small clusters with subclusters", .open("extended L2")) { file, _ in file.put(UInt64(16), at: 72) },
    DamagedImage("refcounts of 128 bits", .open("refcount_order is 7")) { file, _ in file.put(UInt32(7), at: 96) },
    DamagedImage("header too short", .open("header_length is 96")) { file, _ in file.put(UInt32(96), at: 100) },
    DamagedImage("header of odd length", .open("header_length")) { file, _ in file.put(UInt32(109), at: 100) },
    DamagedImage("header longer than a cluster", .open("header_length")) { file, _ in file.put(UInt32(8192), at: 100) },
    DamagedImage("unknown compression", .open("compression type 2")) { file, _ in file.put(UInt8(2), at: 104) },
    DamagedImage("backing name outside", .open("backing file name")) { file, _ in
      file.put(UInt64(4090), at: 8)
      file.put(UInt32(100), at: 16)
    },
    DamagedImage("backing name too long", .open("1024 bytes long")) { file, _ in
      file.put(UInt64(512), at: 8)
      file.put(UInt32(1024), at: 16)
    },
    DamagedImage("extension outside", .open("longer than its area")) { file, _ in
      file.putExtension(0xdead_beef, length: .max)
    },
    DamagedImage("file of 100 bytes", .open("header")) { file, _ in file.resize(to: 100) },
    DamagedImage("file of 40 bytes", .open("magic bytes")) { file, _ in file.resize(to: 40) },
    DamagedImage("empty file", .open("magic bytes")) { file, _ in file.resize(to: 0) },
  ]

  static let tables: [DamagedImage] = [
    DamagedImage("L1 table is the refcount table", judged: false, .openToWrite("lies in the")) { file, p in
      file.put(p.table, at: 40)
    },
    DamagedImage("L1 table is a refcount block", judged: false, .openToWrite("lies in the")) { file, p in
      file.put(p.block, at: 40)
    },
    DamagedImage("L2 table in the header", .openToWrite("L1 entry 0")) { file, p in file.put(copied, at: p.l1) },
    DamagedImage("L2 table past the end", .read("L1 entry 0")) { file, p in file.put(copied | 1 << 40, at: p.l1) },
    DamagedImage("L2 table misaligned", .read("L1 entry 0")) { file, p in file.put(copied | (p.l2 + 512), at: p.l1) },
    DamagedImage("L1 reserved bits", .read("L1 entry 0")) { file, p in file.put(copied | 1 << 58 | p.l2, at: p.l1) },
    DamagedImage("L2 table is the L1 table", .openToWrite("lies in the L1 table")) { file, p in
      file.put(copied | p.l1, at: p.l1)
    },
    DamagedImage("L2 table is the refcount table", .openToWrite("lies in the refcount table")) { file, p in
      file.put(copied | p.table, at: p.l1)
    },
    DamagedImage("L2 table is a refcount block", .openToWrite("named twice")) { file, p in
      file.put(copied | p.block, at: p.l1)
    },
    DamagedImage("L2 table named twice", .openToWrite("named twice")) { file, p in file.put(copied | p.l2, at: p.l1 + 8)
    },
    DamagedImage("data in the L1 table", .write("the L1 table's")) { file, p in
      file.put(copied | p.l1, at: p.l2 + 16)
    },
    DamagedImage("data in the refcount table", .write("the refcount table's")) { file, p in
      file.put(copied | p.table, at: p.l2 + 16)
    },
    DamagedImage("data in a refcount block", .write("the refcount block's")) { file, p in
      file.put(copied | p.block, at: p.l2 + 16)
    },
    DamagedImage("data in its own L2 table", .write("the L2 table's")) { file, p in
      file.put(copied | p.l2, at: p.l2 + 16)
    },
    DamagedImage("data in the header", judged: false, .read("offset 0")) { file, p in file.put(copied, at: p.l2 + 16) },
    DamagedImage("data past the end", .read("past the end")) { file, p in file.put(copied | 1 << 50, at: p.l2 + 16) },
    DamagedImage("data misaligned", .write("not that of a cluster")) { file, p in
      file.put(copied | (p.l2 + 512), at: p.l2 + 16)
    },
    DamagedImage("L2 reserved bits", judged: false, .zero("reserved bits")) { file, p in
      file.put(copied | 2 | p.l2, at: p.l2 + 16)
    },
    DamagedImage("compressed past the end", .read("outside of the file")) { file, p in
      file.put(compressed | 1 << 50, at: p.l2 + 16)
    },
    DamagedImage("compressed in the header", judged: false, .write("outside of the file")) { file, p in
      file.put(compressed | 60, at: p.l2 + 16)
    },
    DamagedImage("compressed rubbish", judged: false, .read("can't be expanded")) { file, p in
      file.put(compressed | 3 << 58 | p.table, at: p.l2 + 16)
    },
    DamagedImage("compressed in the L1 table", judged: false, .zero("the L1 table's")) { file, p in
      file.put(compressed | p.l1, at: p.l2 + 16)
    },
    DamagedImage("kept cluster is the L2 table", judged: false, .write("the L2 table's")) { file, p in
      file.put(copied | p.l2 | 1, at: p.l2 + 16)
    },
    DamagedImage("shared data in a refcount block", judged: false, .zero("the refcount block's")) { file, p in
      file.put(p.block, at: p.l2 + 16)
    },
    DamagedImage("compressed and exclusive", .corruption("COPIED is set")) { file, p in
      let entry = DamageTests.integer((0..<8).map { file.byte(at: p.l2 + $0) })
      file.put(entry | copied, at: p.l2)
    },
    DamagedImage("refcount block misaligned", .openToWrite("refcount table entry 0")) { file, p in
      file.put(p.block + 512, at: p.table)
    },
    DamagedImage("refcount block past the end", .openToWrite("refcount table entry 0")) { file, p in
      file.put(UInt64(1) << 40, at: p.table)
    },
    DamagedImage("refcount block is the L1 table", judged: false, .openToWrite("lies in the L1 table")) { file, p in
      file.put(p.l1, at: p.table)
    },
    DamagedImage("refcount block is the refcount table", judged: false, .openToWrite("lies in the refcount table")) {
      file, p in file.put(p.table, at: p.table)
    },
    DamagedImage("refcount block named twice", judged: false, .openToWrite("named twice")) { file, p in
      file.put(p.block, at: p.table + 8)
    },
    DamagedImage("everything called free", .writeNew("the header's")) { file, p in
      for entry in 0..<512 { file.put(UInt64(0), at: p.block + UInt64(entry) * 8) }
    },
    DamagedImage("L1 table called free", .writeNew("the L1 table's")) { file, p in
      file.put(UInt16(0), at: p.block + p.l1 / clusterByteCount * 2)
    },
    DamagedImage("L2 table called free", .writeNew("the L2 table's")) { file, p in
      file.put(UInt16(0), at: p.block + p.l2 / clusterByteCount * 2)
    },
    DamagedImage("count too low", .corruption("refcount 0, 1 references")) { file, p in
      file.put(UInt16(0), at: p.block + (p.l2 / clusterByteCount - 1) * 2)
    },
    DamagedImage("count too high", .corruption("the refcount 9")) { file, p in
      file.put(UInt16(9), at: p.block + (p.l2 / clusterByteCount - 1) * 2)
    },
    DamagedImage("leak", .leak("refcount 1, 0 references")) { file, p in
      file.resize(to: p.end + 8 * clusterByteCount)
      file.put(UInt16(1), at: p.block + (p.end / clusterByteCount + 5) * 2)
    },
    DamagedImage("COPIED missing", .corruption("COPIED is false")) { file, p in file.put(UInt8(0), at: p.l2 + 16) },
    DamagedImage("data shared by two entries", .corruption("2 references")) { file, p in
      let entry = DamageTests.integer((0..<8).map { file.byte(at: p.l2 + 16 + $0) })
      file.put(entry, at: p.l2 + 24)
    },
    DamagedImage("L2 table cut off", .open("past the end")) { file, p in file.resize(to: p.l1) },
    DamagedImage("data cut off", .read("past the end")) { file, p in
      // The table comes behind the data: it stays, and names what isn't there.
      file.put(copied | p.end, at: p.l2 + 16)
    },
    DamagedImage("compressed data cut off", judged: false, .corruption("outside of the file")) { file, p in
      file.resize(to: p.l2 + clusterByteCount)
    },
    DamagedImage("zero cluster in version 2", .version2, judged: false, .read("zero flag")) { file, p in
      file.put(UInt64(1), at: p.l2 + 16)
    },
  ]

  static let others: [DamagedImage] = [
    DamagedImage("subcluster allocated and zero", .subclusters, .read("both allocated and zero")) { file, p in
      file.put(UInt64.max, at: p.l2 + 24)
    },
    DamagedImage("subclusters without a cluster", .subclusters, .write("without a cluster")) { file, p in
      file.put(UInt64(0), at: p.l2 + 16)
    },
    DamagedImage("zero flag beside subclusters", .subclusters, judged: false, .zero("reserved bits")) { file, p in
      file.put(UInt8(1), at: p.l2 + 23)
    },
    DamagedImage("subclusters of a compressed cluster", .subclusters, .corruption("of a compressed cluster")) {
      file, p in
      file.put(compressed | 5 << 12, at: p.l2 + 16)
    },
    DamagedImage("data in the L2 table, with subclusters", .subclusters, .write("the L2 table's")) { file, p in
      file.put(copied | p.l2, at: p.l2 + 16)
    },
    DamagedImage("snapshot's L1 table misaligned", .snapshots, .openToWrite("snapshot 1")) { file, p in
      file.put(p.l1 + 8, at: p.snapshots)
    },
    DamagedImage("snapshot's L1 table past the end", .snapshots, .openToWrite("snapshot 1")) { file, p in
      file.put(UInt64(1) << 40, at: p.snapshots)
    },
    DamagedImage("snapshot's L1 table is absurd", .snapshots, .openToWrite("L1 table has")) { file, p in
      file.put(UInt32.max, at: p.snapshots + 8)
    },
    DamagedImage("snapshot's extra data are absurd", .snapshots, .openToWrite("extra data")) { file, p in
      file.put(UInt32.max, at: p.snapshots + 36)
    },
    DamagedImage("snapshot's L1 table is the active one", .snapshots, judged: false, .openToWrite("lies in the")) {
      file, p in
      file.put(p.l1, at: p.snapshots)
    },
    DamagedImage("snapshot table is the L1 table", .snapshots, judged: false, .openToWrite("lies in the")) { file, p in
      file.put(p.l1, at: 64)
    },
    DamagedImage("data in the snapshot table", .snapshots, judged: false, .write("the snapshot table's")) { file, p in
      file.put(copied | p.snapshots, at: p.l2 + 16)
    },
    DamagedImage("snapshot's L2 table called free", .snapshots, .writeNew("the L2 table of a snapshot's")) { file, p in
      file.put(UInt16(0), at: p.block + p.snapshotL2(file) / clusterByteCount * 2)
    },
    DamagedImage("data in a snapshot's L2 table", .snapshots, .write("the L2 table of a snapshot's")) { file, p in
      file.put(copied | p.snapshotL2(file), at: p.l2 + 16)
    },
    DamagedImage("kept cluster is a snapshot's L2 table", .snapshots, .zero("the L2 table of a snapshot's")) {
      file, p in file.put(copied | p.snapshotL2(file) | 1, at: p.l2 + 16)
    },
    DamagedImage("snapshot's L2 table called the image's own", .snapshots, .write("a snapshot uses it too")) {
      file, p in file.put(copied | p.snapshotL2(file), at: p.l1)
    },
    DamagedImage("snapshot's L2 table is a refcount block", .snapshots, .write("lies in the refcount block")) {
      file, p in file.put(p.block, at: p.snapshotL1(file))
    },
    DamagedImage("snapshot's L2 table is the L1 table", .snapshots, .write("lies in the L1 table")) { file, p in
      file.put(p.l1, at: p.snapshotL1(file))
    },
    DamagedImage("snapshot's L2 table past the end", .snapshots, .corruption("aren't clusters of the file")) {
      file, p in file.put(UInt64(1) << 40, at: p.snapshotL1(file))
    },
    DamagedImage("bitmaps", .bitmaps, .openToWrite("dirty bitmaps")) { _, _ in },
    DamagedImage("bitmaps extension too short", .bitmaps, judged: false, .corruption("bitmaps extension")) { file, _ in
      file.put(UInt32(16), at: file.extensionOffset(0x2385_2875) + 4)
    },
    DamagedImage("bitmap directory past the end", .bitmaps, judged: false, .corruption("reaches past the end")) {
      file, _ in file.put(UInt64(1) << 40, at: file.extensionOffset(0x2385_2875) + 24)
    },
    DamagedImage("no bitmaps in the directory", .bitmaps, judged: false, .corruption("0 bitmaps")) { file, _ in
      file.put(UInt32(0), at: file.extensionOffset(0x2385_2875) + 8)
    },
  ]
}

extension SparseImage {
  /// The 64-bit number at `offset`.
  func integer(at offset: UInt64) -> UInt64 { DamageTests.integer((0..<8).map { byte(at: offset + $0) }) }

  func byte(at offset: UInt64) -> UInt8 {
    var bytes: [UInt8] = [0]
    var span = bytes.mutableSpan
    var raw = span.mutableBytes
    read(into: &raw, at: offset)
    return bytes[0]
  }

  /// Where a header extension's type stands.
  fileprivate func extensionOffset(_ type: UInt32) -> UInt64 {
    var offset: UInt64 = 112
    while offset < 4096 {
      let found = DamageTests.integer((0..<4).map { byte(at: offset + $0) })
      if found == UInt64(type) { return offset }
      offset += 8 + (DamageTests.integer((4..<8).map { byte(at: offset + $0) }) + 7) / 8 * 8
    }
    return 0
  }
}
