/// What a cluster of a bitmap's bits is.
package enum ClusterOfBits: Hashable, Sendable {
  /// All bits are 0; it takes no storage.
  case zeroes
  /// All bits are 1; it takes no storage.
  case ones
  /// Some are 0 and some may be 1: its bytes tell.
  case mixed
}

/// The table of a bitmap: where each cluster of its bits is, or what all of them are (qcow2.txt, "Bitmap table").
///
/// It was checked when it was read: every cluster lies in the file, and is not the header, the L1 table, the refcount
/// table or the bitmap directory.
package struct BitmapTable: Sendable {
  /// How the table's length fits the disk's. A program without bitmaps may have changed the disk's size.
  package enum Fit: Hashable, Sendable {
    case exact
    /// The last part of the disk has no bits.
    case shorter
    /// There are bits for more than the disk has.
    case longer
  }

  /// Of the disk as long as it is now.
  package let geometry: BitmapGeometry
  let entries: [UInt64]

  private static let onesFlag: UInt64 = 1
  private static let reservedMask: UInt64 = 0xff00_0000_0000_01fe

  /// Clusters of bits that the table has.
  package var clusterCount: Int { entries.count }

  package var fit: Fit {
    if entries.count == geometry.clusterCount { return .exact }
    return entries.count < geometry.clusterCount ? .shorter : .longer
  }

  /// - Parameter index: of a cluster of bits, below ``clusterCount``.
  package subscript(index: Int) -> ClusterOfBits {
    if entries[index] & L2Entry.offsetMask != 0 { return .mixed }
    return entries[index] & Self.onesFlag == 0 ? .zeroes : .ones
  }

  /// Where the bits lie in the file, of a cluster that is mixed.
  func offset(ofCluster index: Int) -> UInt64 { entries[index] & L2Entry.offsetMask }

  /// The entry for a cluster that takes no storage.
  static func entry(for bits: ClusterOfBits) -> UInt64 { bits == .ones ? onesFlag : 0 }

  /// True if an entry names a cluster of bits, or says what all its bits are.
  static func isSound(_ entry: UInt64, _ header: Qcow2Header) -> Bool {
    let offset = entry & L2Entry.offsetMask
    return entry & reservedMask == 0 && offset % header.clusterByteCount == 0 && (offset == 0 || entry & onesFlag == 0)
  }
}
