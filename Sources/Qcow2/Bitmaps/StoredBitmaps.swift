import BlockCore
import Buffers

/// The bitmaps of an image, as its directory has them.
package struct StoredBitmaps: Hashable, Sendable {
  /// Longer directories can be described and checked, but not read for use: more than 4000 of the longest names.
  package static let maximumDirectoryByteCount = 4 << 20

  package var entries: [BitmapEntry] = []
  /// False if a program changed the image that didn't keep its bitmaps up to date. Nothing that they say counts then,
  /// not even which clusters they take.
  package var areTrusted: Bool

  package func entry(named name: [UInt8]) -> BitmapEntry? { entries.first { $0.nameBytes == name } }

  /// Reads the whole directory. Names are unique in it.
  static func read(
    _ header: Qcow2Header, _ file: any BlockDevice, _ pool: BufferPool
  ) async throws(Qcow2Error) -> StoredBitmaps {
    var bitmaps = StoredBitmaps(areTrusted: header.autoclear.contains(.bitmaps))
    guard var reader = try BitmapDirectoryReader(header, file, pool, whole: true) else {
      return StoredBitmaps(areTrusted: true)
    }
    guard reader.directory.byteCount <= UInt64(maximumDirectoryByteCount) else {
      throw .unsupportedFeature("a bitmap directory of \(reader.directory.byteCount) bytes")
    }
    var names: Set<[UInt8]> = []
    while let entry = try await reader.next() {
      guard names.insert(entry.nameBytes).inserted else {
        throw .damaged("bitmap directory: two bitmaps have the name \(entry.shortName)")
      }
      bitmaps.entries.append(entry)
    }
    return bitmaps
  }
}

extension BitmapEntry {
  /// A name for messages: the bitmap's maker chose it.
  var shortName: String { Self.shortName(nameBytes) }

  static func shortName(_ name: [UInt8]) -> String {
    let kept = name.prefix(Qcow2CheckReport.maximumNameByteCount)
    return "\"\(String(decoding: kept, as: UTF8.self))\(kept.count < name.count ? "…" : "")\""
  }
}

extension Qcow2Header {
  /// Where the metadata lies that the header itself names, which no bitmap's clusters may be.
  var namedTables: [ByteRange] {
    var tables = [
      ByteRange(offset: 0, length: clusterByteCount),
      ByteRange(offset: l1Offset, length: UInt64(l1EntryCount) * 8),
      ByteRange(offset: refcountTableOffset, length: UInt64(refcountTableClusterCount) << UInt64(clusterBits)),
    ]
    // A directory past the end of every file isn't read at all.
    if let directory = try? bitmapDirectory(), directory.offset <= Refcounts.maximumFileByteCount {
      tables.append(ByteRange(offset: directory.offset, length: directory.byteCount))
    }
    return tables.map { $0.aligned(to: clusterByteCount) }
  }
}
