import Bytes

/// One persistent bitmap as the bitmap directory describes it (qcow2.txt, "Bitmap directory").
package struct BitmapEntry: Hashable, Sendable {
  /// As much of it as is kept.
  package var name: String
  /// Guest bytes that one bit stands for.
  package var granularityByteCount: UInt64
  /// It wasn't saved when the image was last closed: its contents are not to be trusted.
  package var isInUse: Bool
  /// It records every write.
  package var isAuto: Bool
  /// The kind of the bitmap; 1 = dirty tracking.
  package var type: UInt8
  var tableOffset: UInt64
  var tableEntryCount: Int
  var flags: UInt32
  var nameByteCount: Int
  var extraByteCount: Int
}

extension BitmapEntry {
  var isNameCut: Bool { nameByteCount > Self.maximumNameByteCount }

  private static let knownFlags: UInt32 = 3
  private static let dirtyTrackingType: UInt8 = 1
  private static let granularityByteCounts: ClosedRange<UInt64> = 1 << 9...1 << 31
  /// QEMU's longest name. Of longer ones, which it refuses, so much is kept.
  static let maximumNameByteCount = 1023
  /// The bits of one bitmap, as QEMU bounds them.
  private static let maximumBitmapByteCount: UInt64 = 512 << 20
  private static let reservedTableMask: UInt64 = 0xff00_0000_0000_01fe

  /// What is wrong with the entry, so that QEMU doesn't open the image; nil if nothing is.
  func damage(of header: Qcow2Header) -> String? {
    if flags & ~Self.knownFlags != 0 { return "flags 0x\(String(flags, radix: 16))" }
    if type != Self.dirtyTrackingType { return "type \(type)" }
    if !Self.granularityByteCounts.contains(granularityByteCount) { return "a granularity of \(granularityByteCount)" }
    if !(1...Self.maximumNameByteCount).contains(nameByteCount) { return "a name of \(nameByteCount) bytes" }
    if extraByteCount != 0 { return "extra data, which only their maker can keep right" }
    if tableOffset == 0 || tableOffset % header.clusterByteCount != 0 { return "a table at \(tableOffset)" }
    let byteCount = UInt64(tableEntryCount) << UInt64(header.clusterBits)
    guard byteCount > 0, byteCount <= Self.maximumBitmapByteCount else {
      return "a table of \(tableEntryCount) entries"
    }
    let covered = (byteCount * 8).multipliedReportingOverflow(by: granularityByteCount)
    if !isInUse, !covered.overflow, covered.partialValue < header.virtualByteCount {
      return "a table that is too short"
    }
    return nil
  }

  /// True if an entry of the table names a cluster of bits, or says what all its bits are.
  static func isSound(tableEntry entry: UInt64, _ header: Qcow2Header) -> Bool {
    let offset = entry & L2Entry.offsetMask
    return entry & reservedTableMask == 0 && offset % header.clusterByteCount == 0 && (offset == 0 || entry & 1 == 0)
  }
}

/// The bitmaps extension and the directory that it points to (qcow2.txt, "Bitmaps extension", "Bitmaps").
///
/// The header extension names the directory; each of its entries, of variable length, names a bitmap's table, whose
/// entries name clusters of bits, or say that all their bits are 0 or 1. All these clusters are counted like others.
struct BitmapDirectory: Hashable, Sendable {
  static let extensionByteCount = 24
  static let fixedByteCount = 24
  static let maximumBitmapCount = 65535
  /// What QEMU bounds the directory to as well: every entry at its longest would be 64 MiB.
  static let maximumByteCount = 64 << 20

  var bitmapCount: Int
  var byteCount: UInt64
  var offset: UInt64

  /// Decodes the contents of the header extension.
  init(decoding contents: [UInt8]) throws(Qcow2Error) {
    guard contents.count == Self.extensionByteCount else {
      throw .damaged("bitmaps extension: \(contents.count) bytes, not \(Self.extensionByteCount)")
    }
    let bytes = contents.span.bytes
    bitmapCount = Int(bytes.bigEndian(UInt32.self, at: 0))
    byteCount = bytes.bigEndian(at: 8)
    offset = bytes.bigEndian(at: 16)
    guard bitmapCount >= 1, bitmapCount <= Self.maximumBitmapCount, byteCount <= UInt64(Self.maximumByteCount) else {
      throw .damaged("bitmaps extension: \(bitmapCount) bitmaps in a directory of \(byteCount) bytes")
    }
  }
}
