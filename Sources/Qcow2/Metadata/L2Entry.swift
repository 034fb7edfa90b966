/// Where a compressed cluster lies in the file (qcow2.txt, "Compressed Clusters Descriptor").
struct CompressedPlace: Hashable, Sendable {
  /// Offset of the first byte, of any alignment.
  var offset: UInt64
  /// Bytes up to the end of the last 512-byte sector that belongs to it.
  var byteCount: Int

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
    let sectors = (offset + UInt64(byteCount) - 1) >> 9 - offset >> 9
    return L2Entry.compressedFlag | sectors << bits | offset
  }
}

/// An entry of an L2 table as it stands in the file (qcow2.txt, "L2 table entry").
struct L2Entry: Hashable, Sendable {
  static let copiedFlag: UInt64 = 1 << 63
  static let compressedFlag: UInt64 = 1 << 62
  static let zeroFlag: UInt64 = 1
  static let offsetMask: UInt64 = 0x00ff_ffff_ffff_fe00
  /// Bits of a standard descriptor that must be zero.
  static let reservedMask: UInt64 = 0x3f00_0000_0000_01fe

  var raw: UInt64

  static let unallocated = L2Entry(raw: 0)
  /// Reads as zeroes and takes no storage.
  static let zero = L2Entry(raw: zeroFlag)
  static func data(at offset: UInt64) -> L2Entry { L2Entry(raw: copiedFlag | offset) }

  /// What the entry says of its cluster. `isExclusive`: nothing else refers to the host cluster, so it may be
  /// written in place.
  enum Meaning: Hashable, Sendable {
    case unallocated
    /// Reads as zeroes; a host cluster may be kept for it.
    case zero(host: UInt64?, isExclusive: Bool)
    case data(host: UInt64, isExclusive: Bool)
    case compressed(CompressedPlace)
    /// The entry is damaged; the text says how.
    case damaged(String)
  }

  func meaning(clusterBits: UInt64, version: UInt32, fileByteCount: UInt64) -> Meaning {
    if raw == 0 { return .unallocated }
    if raw & Self.compressedFlag != 0 {
      let place = CompressedPlace(decoding: raw, clusterBits: clusterBits)
      guard place.offset < fileByteCount, place.offset >= 1 << clusterBits else {
        return .damaged("compressed data at \(place.offset) lies outside of the file")
      }
      return .compressed(place)
    }
    let host = raw & Self.offsetMask
    guard raw & Self.reservedMask == 0 else { return .damaged("reserved bits are set") }
    guard host & ((1 << clusterBits) - 1) == 0 else { return .damaged("offset \(host) is not that of a cluster") }
    let isExclusive = raw & Self.copiedFlag != 0
    if raw & Self.zeroFlag != 0 {
      guard version >= 3 else { return .damaged("a zero flag in a version 2 image") }
      return .zero(host: host == 0 ? nil : host, isExclusive: isExclusive)
    }
    guard host != 0 else { return isExclusive ? .damaged("data at offset 0") : .unallocated }
    guard host < fileByteCount else { return .damaged("data at \(host) lies past the end of the file") }
    return .data(host: host, isExclusive: isExclusive)
  }
}

/// An entry of an L1 table (qcow2.txt, "L1 table entry").
struct L1Entry: Hashable, Sendable {
  static let reservedMask: UInt64 = 0x7f00_0000_0000_01ff

  var raw: UInt64

  var tableOffset: UInt64 { raw & L2Entry.offsetMask }
  /// Only this entry refers to the table, so it may be changed in place.
  var isExclusive: Bool { raw & L2Entry.copiedFlag != 0 }

  static func table(at offset: UInt64) -> L1Entry { L1Entry(raw: L2Entry.copiedFlag | offset) }
}
