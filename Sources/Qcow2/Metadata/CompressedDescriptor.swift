/// Where a compressed cluster lies in the file (qcow2.txt, "Compressed Clusters Descriptor").
///
/// The entry tells the first byte, and the length only in sectors: what stands behind the compressed bytes in the last
/// one is another cluster's.
struct CompressedDescriptor: Hashable, Sendable {
  /// Offset of the first byte, of any alignment.
  var offset: UInt64
  /// Bytes up to the end of the last 512-byte sector that belongs to it.
  var byteCount: Int

  var end: UInt64 { offset + UInt64(byteCount) }

  init(offset: UInt64, byteCount: Int) {
    self.offset = offset
    self.byteCount = byteCount
  }

  /// Bits that hold the offset; above them, up to bit 61, stands the number of additional sectors.
  static func offsetBits(clusterBits: UInt64) -> UInt64 { 62 - (clusterBits - 8) }

  init(decoding entry: UInt64, clusterBits: UInt64) {
    let bits = Self.offsetBits(clusterBits: clusterBits)
    offset = entry & ((1 << bits) - 1)
    let sectors = (entry & ((1 << 62) - 1)) >> bits
    byteCount = Int((sectors + 1) * 512 - (offset & 511))
  }

  /// The entry for data of `byteCount` bytes; nil if the place is too far into the file to be named.
  func encoded(clusterBits: UInt64) -> UInt64? {
    let bits = Self.offsetBits(clusterBits: clusterBits)
    guard offset < 1 << min(bits, 56) else { return nil }
    let sectors = ((offset + UInt64(byteCount) - 1) >> 9) - (offset >> 9)
    return L2Entry.compressedFlag | sectors << bits | offset
  }
}
