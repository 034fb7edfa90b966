import Bytes

/// From the header to bytes: whole for a new image, single fields for changes in place (qcow2.txt, "Header").
extension Qcow2Header {
  /// Length of the fixed part as written: version 3 always carries the compression type.
  private var fixedByteCount: Int {
    version == 2
      ? Self.version2ByteCount : max(112, 105 + additionalFields.count + (7 - additionalFields.count % 8) % 8)
  }

  /// The bytes for the start of cluster 0: fields, extensions with their end mark, backing file name.
  ///
  /// - Throws: `invalidOption` if they don't fit into one cluster.
  package func encoded() throws(Qcow2Error) -> [UInt8] {
    var area: [UInt8] = []
    for each in extensions {
      area.append(bigEndian: each.type)
      area.append(bigEndian: UInt32(each.contents.count))
      area += each.contents
      area += [UInt8](repeating: 0, count: each.encodedByteCount - 8 - each.contents.count)
    }
    area += [UInt8](repeating: 0, count: 8)
    let nameOffset = fixedByteCount + area.count
    let name = backingName ?? []
    guard name.count <= Self.maximumBackingNameByteCount, UInt64(nameOffset + name.count) <= clusterByteCount else {
      throw .invalidOption("the backing file name (\(name.count) bytes) doesn't fit into the first cluster")
    }
    return fixedFields(nameOffset: name.isEmpty ? 0 : nameOffset) + area + name
  }

  private func fixedFields(nameOffset: Int) -> [UInt8] {
    var bytes: [UInt8] = []
    bytes.append(bigEndian: Self.magic)
    bytes.append(bigEndian: version)
    bytes.append(bigEndian: UInt64(nameOffset))
    bytes.append(bigEndian: UInt32(backingName?.count ?? 0))
    bytes.append(bigEndian: UInt32(clusterBits))
    bytes.append(bigEndian: virtualByteCount)
    bytes.append(bigEndian: encryption.rawValue)
    bytes.append(bigEndian: UInt32(l1EntryCount))
    bytes.append(bigEndian: l1Offset)
    bytes.append(bigEndian: refcountTableOffset)
    bytes.append(bigEndian: UInt32(refcountTableClusterCount))
    bytes.append(bigEndian: UInt32(snapshotCount))
    bytes.append(bigEndian: snapshotsOffset)
    guard version >= 3 else { return bytes }
    bytes.append(bigEndian: incompatible.rawValue)
    bytes.append(bigEndian: compatibleBits)
    bytes.append(bigEndian: autoclear.rawValue)
    bytes.append(bigEndian: UInt32(refcountOrder))
    bytes.append(bigEndian: UInt32(fixedByteCount))
    bytes.append(compressionType.rawValue)
    bytes += additionalFields
    return bytes + [UInt8](repeating: 0, count: fixedByteCount - bytes.count)
  }

  /// Where single fields stand, for changing them in place: everything else in cluster 0 stays as it is.
  enum FieldOffset {
    /// Virtual size, encryption method, L1 entry count and L1 offset follow one another.
    static let virtualByteCount = 24
    static let refcountTable = 48
    static let incompatible = 72
    static let autoclear = 88
  }

  /// Bytes 24–47, for a changed size or L1 table.
  func encodedSizeAndL1() -> [UInt8] { Array(fixedFields(nameOffset: 0)[24..<48]) }
  /// Bytes 48–59, for a moved refcount table.
  func encodedRefcountTable() -> [UInt8] { Array(fixedFields(nameOffset: 0)[48..<60]) }
}
