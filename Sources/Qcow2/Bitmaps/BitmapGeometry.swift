import BlockCore

/// How many bits, bytes and clusters a bitmap of an image takes (qcow2.txt, "Bitmap data"). Bit n stands for the n-th
/// piece of the disk as long as the granularity; the first bit of a byte is its lowest.
package struct BitmapGeometry: Hashable, Sendable {
  package let granularityByteCount: UInt64
  package let clusterByteCount: Int
  package let bitCount: UInt64

  package init(virtualByteCount: UInt64, granularityByteCount: UInt64, clusterByteCount: Int) {
    self.granularityByteCount = granularityByteCount
    self.clusterByteCount = clusterByteCount
    let (whole, rest) = virtualByteCount.quotientAndRemainder(dividingBy: granularityByteCount)
    bitCount = whole + (rest == 0 ? 0 : 1)
  }

  init(_ header: Qcow2Header, granularityByteCount: UInt64) {
    self.init(
      virtualByteCount: header.virtualByteCount, granularityByteCount: granularityByteCount,
      clusterByteCount: Int(header.clusterByteCount))
  }

  package var bitsPerCluster: UInt64 { UInt64(clusterByteCount) * 8 }

  /// Clusters of bits, and entries of the bitmap's table.
  package var clusterCount: Int {
    let (whole, rest) = bitCount.quotientAndRemainder(dividingBy: bitsPerCluster)
    return Int(whole) + (rest == 0 ? 0 : 1)
  }

  /// Guest bytes that a whole cluster of bits stands for.
  package var coveredByteCount: UInt64 { bitsPerCluster &* granularityByteCount }

  /// How many bits of a cluster stand for something: fewer than all in the last one, none behind it.
  package func bitCount(ofCluster index: Int) -> UInt64 {
    let (first, overflow) = UInt64(index).multipliedReportingOverflow(by: bitsPerCluster)
    return overflow || first >= bitCount ? 0 : min(bitCount - first, bitsPerCluster)
  }

  /// Clears the bits of a cluster that stand for nothing: those behind the end of the disk.
  func clearTail(of bytes: inout MutableRawSpan, cluster index: Int) {
    let kept = Int(bitCount(ofCluster: index))
    guard kept < bytes.byteCount * 8 else { return }
    if kept % 8 != 0 {
      let last = bytes.unsafeLoad(fromByteOffset: kept / 8, as: UInt8.self)
      bytes.storeBytes(of: last & UInt8((1 << (kept % 8)) - 1), toByteOffset: kept / 8, as: UInt8.self)
    }
    bytes.zero((kept + 7) / 8..<bytes.byteCount)
  }
}
