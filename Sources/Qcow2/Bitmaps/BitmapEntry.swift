import Bytes

/// One persistent bitmap as the bitmap directory describes it (qcow2.txt, "Bitmap directory").
package struct BitmapEntry: Hashable, Sendable {
  /// As much of it as is kept. Nothing says that it is UTF-8.
  package var nameBytes: [UInt8]
  /// Guest bytes that one bit stands for.
  package var granularityByteCount: UInt64
  /// The kind of the bitmap; 1 = dirty tracking.
  package var type: UInt8
  var flags: UInt32
  var tableOffset: UInt64
  var tableEntryCount: Int
  /// The lengths that the directory states, of which more may have been left out here.
  var nameByteCount: Int
  var extraByteCount: Int
  /// What only the bitmap's maker understands; empty where the directory is only described.
  var extra: [UInt8] = []
}

extension BitmapEntry {
  package var name: String { String(decoding: nameBytes, as: UTF8.self) }

  /// It wasn't saved when the image was last closed: its contents are not to be trusted.
  package var isInUse: Bool {
    get { flags & Self.inUseFlag != 0 }
    set { flags = newValue ? flags | Self.inUseFlag : flags & ~Self.inUseFlag }
  }

  /// It records every write.
  package var isAuto: Bool {
    get { flags & Self.autoFlag != 0 }
    set { flags = newValue ? flags | Self.autoFlag : flags & ~Self.autoFlag }
  }

  private static let inUseFlag: UInt32 = 1
  private static let autoFlag: UInt32 = 2
  static let dirtyTrackingType: UInt8 = 1
  package static let granularityBits = 9...31
  /// QEMU's longest name. Of longer ones, which it refuses, so much is described.
  package static let maximumNameByteCount = 1023
  /// The bits of one bitmap, as QEMU bounds them.
  package static let maximumBitmapByteCount: UInt64 = 512 << 20

  var isNameCut: Bool { nameByteCount > nameBytes.count }

  /// Bytes in the directory: fields, extra data, name, padding to a multiple of 8.
  var encodedByteCount: Int { (BitmapDirectory.fixedByteCount + extraByteCount + nameByteCount + 7) / 8 * 8 }

  /// True if this implementation knows what every field of the entry means, and so may change the bitmap.
  package var isUnderstood: Bool { unknownPart == nil }

  private var unknownPart: String? {
    let unknown = flags & ~(Self.inUseFlag | Self.autoFlag)
    if unknown != 0 { return "flags 0x\(String(flags, radix: 16))" }
    if type != Self.dirtyTrackingType { return "type \(type)" }
    if extraByteCount != 0 { return "extra data, which only their maker can keep right" }
    return nil
  }

  /// What is wrong with the entry, so that QEMU doesn't open the image; nil if nothing is.
  func damage(of header: Qcow2Header) -> String? {
    if let unknownPart { return unknownPart }
    if let damage = limitDamage(of: header) { return damage }
    if !isInUse, tableEntryCount < neededTableEntryCount(for: header) { return "a table that is too short" }
    return nil
  }

  /// What is wrong with an entry whose fields are known, whatever the size of the disk.
  func limitDamage(of header: Qcow2Header) -> String? {
    if !Self.granularityBits.contains(granularityByteCount.trailingZeroBitCount) {
      return "a granularity of \(granularityByteCount)"
    }
    if !(1...Self.maximumNameByteCount).contains(nameByteCount) { return "a name of \(nameByteCount) bytes" }
    if tableOffset == 0 || tableOffset % header.clusterByteCount != 0 { return "a table at \(tableOffset)" }
    let byteCount = UInt64(tableEntryCount) << UInt64(header.clusterBits)
    guard byteCount > 0, byteCount <= Self.maximumBitmapByteCount else {
      return "a table of \(tableEntryCount) entries"
    }
    return nil
  }

  /// Entries of the table that a bitmap of this granularity needs for the whole disk: what a consistent one has.
  func neededTableEntryCount(for header: Qcow2Header) -> Int {
    BitmapGeometry(header, granularityByteCount: granularityByteCount).clusterCount
  }

  /// The entry as the directory has it. All of its bytes are in memory.
  func encoded() -> [UInt8] {
    var bytes: [UInt8] = []
    bytes.append(bigEndian: tableOffset)
    bytes.append(bigEndian: UInt32(tableEntryCount))
    bytes.append(bigEndian: flags)
    bytes += [type, UInt8(granularityByteCount.trailingZeroBitCount)]
    bytes.append(bigEndian: UInt16(nameBytes.count))
    bytes.append(bigEndian: UInt32(extra.count))
    bytes += extra + nameBytes
    return bytes + [UInt8](repeating: 0, count: encodedByteCount - bytes.count)
  }
}
