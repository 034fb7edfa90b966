import Bytes
import Model

/// The first page of a `.hashes` file. All numbers are little-endian.
///
/// | offset | bytes | what |
/// |-------:|------:|------|
/// |      0 |     8 | "COBWHASH" |
/// |      8 |     4 | format version, 1 |
/// |     12 |     4 | hash, 1 = SHA-256 |
/// |     16 |     4 | bytes of a grain, 65536 |
/// |     20 |     4 | coverage, 0 = every page is stored; 1 = a page that is a hole is the parent's |
/// |     24 |     8 | bytes of guest data |
/// |     32 |    32 | root of the tree |
/// |     64 |    16 | id of the backup, as ULID bits, high word first |
/// |     80 |  3984 | zero |
/// |   4064 |    32 | SHA-256 of the 4064 bytes before |
///
/// After it the stored levels of the tree (``HashTree``) follow, leaves first, each of whole pages of 128 nodes of 32
/// bytes; places past a level's end are zero. A page that is all zero may be a hole: it stands for guest data that
/// reads as zeroes. The node over each page is the entry of the next level, so every page can be proven by itself
/// against the root.
///
/// An increment's file (coverage 1) has only the pages that differ from its parent's at the same place, and the one of
/// the highest level. A hole under a node that isn't zero is found in the parent's file, or in one below: the first that
/// has something at that level and index must match that node.
package struct HashFileHeader: Hashable, Sendable {
  package static let byteCount = 4096
  static let formatVersion: UInt32 = 1

  package var guestByteCount: UInt64
  package var root: Digest
  package var backup: BackupID
  /// Whether pages that are the parent's are left out.
  package var isOverParent: Bool

  package init(guestByteCount: UInt64, root: Digest, backup: BackupID, isOverParent: Bool = false) {
    self.isOverParent = isOverParent
    self.guestByteCount = guestByteCount
    self.root = root
    self.backup = backup
  }

  package func encoded() -> [UInt8] {
    var page = [UInt8](repeating: 0, count: Self.byteCount)
    page.replaceSubrange(0..<8, with: Self.magic)
    Self.store(Self.formatVersion, in: &page, at: 8)
    Self.store(Self.sha256, in: &page, at: 12)
    Self.store(UInt32(HashTree.grainByteCount), in: &page, at: 16)
    Self.store(isOverParent ? Self.overParent : Self.complete, in: &page, at: 20)
    Self.store(guestByteCount, in: &page, at: 24)
    root.store(in: &page, at: 32)
    Self.store(backup.ulid.high, in: &page, at: 64)
    Self.store(backup.ulid.low, in: &page, at: 72)
    Digest(of: page.span.bytes.extracting(0..<Self.checksumOffset)).store(in: &page, at: Self.checksumOffset)
    return page
  }

  package init(decoding page: [UInt8]) throws(HashFileDamage) {
    guard page.count == Self.byteCount, Array(page[0..<8]) == Self.magic else {
      throw HashFileDamage("it doesn't start with a header")
    }
    let version: UInt32 = Self.load(page, at: 8)
    guard version == Self.formatVersion else {
      throw HashFileDamage("its format version is \(version), not \(Self.formatVersion)")
    }
    let bytes = page.span.bytes
    let expected = Digest(from: bytes, at: Self.checksumOffset)
    guard Digest(of: bytes.extracting(0..<Self.checksumOffset)) == expected else {
      throw HashFileDamage("its header doesn't match its checksum")
    }
    let (hash, grain): (UInt32, UInt32) = (Self.load(page, at: 12), Self.load(page, at: 16))
    let coverage: UInt32 = Self.load(page, at: 20)
    guard hash == Self.sha256, grain == UInt32(HashTree.grainByteCount),
      coverage == Self.complete || coverage == Self.overParent
    else {
      throw HashFileDamage("its header asks for a hash, grain or coverage that version 1 doesn't have")
    }
    isOverParent = coverage == Self.overParent
    guestByteCount = Self.load(page, at: 24)
    root = Digest(from: bytes, at: 32)
    backup = BackupID(ULID(high: Self.load(page, at: 64), low: Self.load(page, at: 72)))
  }

  private static let magic = Array("COBWHASH".utf8)
  private static let sha256: UInt32 = 1
  private static let complete: UInt32 = 0
  private static let overParent: UInt32 = 1
  private static let checksumOffset = byteCount - Digest.byteCount

  private static func store<Number: FixedWidthInteger>(_ number: Number, in page: inout [UInt8], at offset: Int) {
    for index in 0..<MemoryLayout<Number>.size {
      page[offset + index] = UInt8(truncatingIfNeeded: number >> Number(8 * index))
    }
  }

  private static func load<Number: FixedWidthInteger>(_ page: [UInt8], at offset: Int) -> Number {
    (0..<MemoryLayout<Number>.size).reduce(0) { $0 | Number(page[offset + $1]) << Number(8 * $1) }
  }
}

/// What is wrong with a `.hashes` file, as the end of a sentence about it.
package struct HashFileDamage: Error, Hashable, Sendable {
  package let text: String
  /// What a person knows the file by; nil where whoever reads it says so.
  package let file: String?

  package init(_ text: String, in file: String? = nil) {
    self.text = text
    self.file = file
  }
}
