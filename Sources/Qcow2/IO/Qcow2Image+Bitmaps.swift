import Bytes
import BlockCore
import Buffers

/// Reading the bitmaps that are stored in an image, cluster by cluster of their bits.
///
/// Whatever the directory and the tables say is checked before it is used. Memory: the directory, bounded by
/// ``StoredBitmaps/maximumDirectoryByteCount``, and the table at hand, whose bits are 512 MiB at most.
extension Qcow2Image {
  /// Whether the image can carry bitmaps: version 2 has no place for them.
  package var canCarryBitmaps: Bool { header.value.version >= 3 }

  /// The image's bitmaps, those included that aren't understood or aren't consistent.
  package func bitmaps() async throws(BlockError) -> StoredBitmaps {
    try checkUsable(.read)
    if let bitmapsOnDisk { return bitmapsOnDisk.stored }
    do {
      return try await StoredBitmaps.read(header.value, file.device, file.pool)
    } catch {
      throw error.asBlockError(.read)
    }
  }

  /// Reads the table of a bitmap of this image.
  ///
  /// The table of a bitmap in use, or of one that isn't trusted, can be read as well: the caller knows what it is
  /// worth.
  /// - Throws: `corrupt` if the table isn't sound; `notSupported` if the entry isn't understood.
  package func table(of bitmap: BitmapEntry) async throws(BlockError) -> BitmapTable {
    try checkUsable(.read)
    let value = header.value
    guard bitmap.isUnderstood else {
      throw BlockError(.notSupported, .read, cause: "bitmap \(bitmap.shortName): \(bitmap.damage(of: value) ?? "")")
    }
    if let damage = bitmap.limitDamage(of: value) { throw bitmap.error(damage) }
    let byteCount = UInt64(bitmap.tableEntryCount) * 8
    let tables = value.namedTables
    guard file.holds(bitmap.tableOffset, byteCount),
      !tables.contains(where: { $0.intersection(ByteRange(offset: bitmap.tableOffset, length: byteCount)) != nil })
    else { throw bitmap.error("a table at \(bitmap.tableOffset), where none can be") }
    let entries: [UInt64]
    do {
      entries = try await file.table(at: bitmap.tableOffset, count: bitmap.tableEntryCount)
    } catch {
      throw error.asBlockError(.read)
    }
    for (index, entry) in entries.enumerated() where entry != 0 {
      let offset = entry & L2Entry.offsetMask
      guard BitmapTable.isSound(entry, value), offset == 0 || file.holds(offset, file.clusterByteCount),
        offset == 0 || !tables.contains(where: { $0.range.contains(offset) })
      else {
        throw bitmap.error("entry \(index) of its table is \(String(entry, radix: 16))")
      }
    }
    return BitmapTable(
      geometry: BitmapGeometry(value, granularityByteCount: bitmap.granularityByteCount), entries: entries)
  }

  /// Reads a cluster of a bitmap's bits into `bytes`, as long as a cluster. Bits behind the end of the disk are 0.
  ///
  /// - Parameter index: below the table's ``BitmapTable/clusterCount``.
  package func readBits(
    ofCluster index: Int, of table: BitmapTable, into bytes: inout MutableRawSpan
  ) async throws(BlockError) {
    try checkUsable(.read)
    switch table[index] {
    case .zeroes: return bytes.zero()
    case .ones: bytes.withUnsafeMutableBytes { _ = $0.initializeMemory(as: UInt8.self, repeating: 0xff) }
    case .mixed: try await file.read(into: &bytes, at: table.offset(ofCluster: index))
    }
    table.geometry.clearTail(of: &bytes, cluster: index)
  }
}

extension BitmapEntry {
  func error(_ damage: String) -> BlockError { BlockError(.corrupt("bitmap \(shortName): \(damage)"), .read) }
}
