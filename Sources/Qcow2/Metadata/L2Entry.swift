/// How the L2 entries of an image are to be read.
struct L2Format: Hashable, Sendable {
  let clusterBits: UInt64
  let version: UInt32
  /// Entries are 16 bytes: the second half says of each of 32 subclusters whether it is allocated, and whether zero.
  let hasSubclusters: Bool
  /// The guest's data lie in a file of their own, each cluster at its guest offset; their use isn't counted.
  let hasDataFile: Bool

  static let subclusterCountBits: UInt64 = 5

  init(_ header: Qcow2Header) {
    clusterBits = UInt64(header.clusterBits)
    version = header.version
    hasSubclusters = header.incompatible.contains(.extendedL2)
    hasDataFile = header.incompatible.contains(.externalDataFile)
  }

  var entryByteCount: Int { hasSubclusters ? 16 : 8 }
  /// The unit that has a state of its own: a subcluster, or a cluster.
  var unitBits: UInt64 { hasSubclusters ? clusterBits - Self.subclusterCountBits : clusterBits }
  var unitsPerClusterBits: UInt64 { hasSubclusters ? Self.subclusterCountBits : 0 }
}

/// An entry of an L2 table as it stands in the file (qcow2.txt, "L2 table entry", "Extended L2 Entries").
struct L2Entry: Hashable, Sendable {
  static let copiedFlag: UInt64 = 1 << 63
  static let compressedFlag: UInt64 = 1 << 62
  static let zeroFlag: UInt64 = 1
  static let offsetMask: UInt64 = 0x00ff_ffff_ffff_fe00
  /// Bits of a standard descriptor that must be zero.
  static let reservedMask: UInt64 = 0x3f00_0000_0000_01fe

  var raw: UInt64
  /// Of an extended entry: bit s says that subcluster s is allocated, bit 32 + s that it reads as zeroes.
  var bitmap: UInt64 = 0

  static let unallocated = L2Entry(raw: 0)
  /// Reads as zeroes and takes no storage.
  static let zero = L2Entry(raw: zeroFlag)
  static func data(at offset: UInt64) -> L2Entry { L2Entry(raw: copiedFlag | offset) }

  var isUnallocated: Bool { raw == 0 && bitmap == 0 }
  var isCompressed: Bool { raw & Self.compressedFlag != 0 }
  var isExclusive: Bool { raw & Self.copiedFlag != 0 }
  /// The host cluster that a standard descriptor names; 0 for none.
  var host: UInt64 { isCompressed ? 0 : raw & Self.offsetMask }
  var allocated: UInt32 { UInt32(truncatingIfNeeded: bitmap) }

  /// What the entry says of its cluster or one of its subclusters. `host` is that unit's place. `isExclusive`:
  /// nothing else refers to the host cluster, so it may be written in place.
  enum Meaning: Hashable, Sendable {
    /// Nothing is stored here; a host cluster may be there for other subclusters.
    case unallocated(host: UInt64? = nil, isExclusive: Bool = false)
    /// Reads as zeroes; a host cluster may be kept for it.
    case zero(host: UInt64?, isExclusive: Bool)
    case data(host: UInt64, isExclusive: Bool)
    case compressed(CompressedDescriptor)
    /// The entry is damaged; the text says how.
    case damaged(String)
  }

  /// - Parameters:
  ///   - subcluster: the one that is asked about, where the format has them.
  ///   - fileByteCount, storageByteCount: lengths of the image's file and of the one that holds the guest's data.
  @inline(__always)
  func meaning(
    _ format: borrowing L2Format, subcluster: UInt64 = 0, fileByteCount: @autoclosure () -> UInt64,
    storageByteCount: @autoclosure () -> UInt64
  ) -> Meaning {
    if raw == 0, bitmap == 0 { return .unallocated() }
    if raw & Self.compressedFlag != 0 { return compressedMeaning(format, fileByteCount()) }
    guard raw & Self.reservedMask == 0 else { return .damaged("reserved bits are set") }
    guard host & ((1 << format.clusterBits) - 1) == 0 else {
      return .damaged("offset \(host) is not that of a cluster")
    }
    let host = host
    if host == 0, isExclusive, !format.hasDataFile { return .damaged("data at offset 0") }
    if format.hasSubclusters { return subclusterMeaning(format, subcluster, storageByteCount()) }
    if raw & Self.zeroFlag != 0 {
      guard format.version >= 3 else { return .damaged("a zero flag in a version 2 image") }
      // Zeroes are read without their cluster. One that the image's file doesn't have isn't kept for them.
      var kept = host == 0 ? nil : host
      if !format.hasDataFile, host >= storageByteCount() { kept = nil }
      return .zero(host: kept, isExclusive: isExclusive)
    }
    guard host != 0 || isExclusive else { return .unallocated() }
    guard host < storageByteCount() else { return .damaged("data at \(host) lies past the end of the file") }
    return .data(host: host, isExclusive: isExclusive)
  }

  private func compressedMeaning(_ format: L2Format, _ fileByteCount: UInt64) -> Meaning {
    if format.hasDataFile { return .damaged("compressed data in an image with a data file of its own") }
    // A bitmap means nothing here, and is ignored as QEMU does.
    let place = CompressedDescriptor(decoding: raw, clusterBits: format.clusterBits)
    guard place.offset < fileByteCount, place.offset >= 1 << format.clusterBits else {
      return .damaged("compressed data at \(place.offset) lies outside of the file")
    }
    // Some of the last sector belongs to the data: without it they would be expanded to something else.
    guard place.end - 512 < fileByteCount else {
      return .damaged("compressed data at \(place.offset) reach past the end of the file")
    }
    return .compressed(place)
  }

  private func subclusterMeaning(_ format: L2Format, _ number: UInt64, _ storageByteCount: UInt64) -> Meaning {
    guard raw & Self.zeroFlag == 0 else { return .damaged("reserved bits are set") }
    guard allocated & UInt32(truncatingIfNeeded: bitmap >> 32) == 0 else {
      return .damaged("a subcluster is both allocated and zero")
    }
    let isZero = bitmap >> (32 + number) & 1 == 1
    guard host != 0 || isExclusive else {
      guard allocated == 0 else { return .damaged("subclusters are allocated without a cluster") }
      return isZero ? .zero(host: nil, isExclusive: false) : .unallocated()
    }
    guard host < storageByteCount else { return .damaged("data at \(host) lies past the end of the file") }
    let place = host + (number << format.unitBits)
    if isZero { return .zero(host: place, isExclusive: isExclusive) }
    guard bitmap >> number & 1 == 1 else { return .unallocated(host: place, isExclusive: isExclusive) }
    return .data(host: place, isExclusive: isExclusive)
  }
}

extension L2Entry.Meaning {
  /// In a data file of their own, guest data lie at their guest offset.
  func checked(against guestOffset: UInt64) -> L2Entry.Meaning {
    switch self {
    case .data(let host, _), .zero(let host?, _), .unallocated(let host?, _):
      host == guestOffset ? self : .damaged("data at \(host) of the data file, not at their guest offset")
    default: self
    }
  }
}

/// Changes of extended entries; each bit of a mask stands for a subcluster.
extension L2Entry {
  static let allSubclusters: UInt32 = .max

  /// The entry once these subclusters are stored at `host`, where those that were allocated are as well.
  func storing(_ mask: UInt32, at host: UInt64) -> L2Entry {
    let kept = isCompressed ? 0 : bitmap
    return L2Entry(raw: Self.copiedFlag | host, bitmap: (kept | UInt64(mask)) & ~(UInt64(mask) << 32))
  }

  /// The entry once these subclusters read as zeroes.
  func zeroing(_ mask: UInt32) -> L2Entry {
    if isCompressed { return L2Entry(raw: 0, bitmap: UInt64(mask) << 32) }
    return L2Entry(raw: raw, bitmap: (bitmap & ~UInt64(mask)) | UInt64(mask) << 32)
  }
}

/// An entry of an L1 table (qcow2.txt, "L1 table entry").
struct L1Entry: Hashable, Sendable {
  static let reservedMask: UInt64 = 0x7f00_0000_0000_01ff

  var raw: UInt64

  var tableOffset: UInt64 { raw & L2Entry.offsetMask }
  /// Only this entry refers to the table, so it may be changed in place.
  var isExclusive: Bool { raw & L2Entry.copiedFlag != 0 }

  /// What is wrong with the entry at `index` of its table, which names no table that the file has.
  func damage(_ index: Int) -> String {
    if raw & Self.reservedMask != 0 { return "L1 entry \(index) has reserved bits set: \(String(raw, radix: 16))" }
    return "L1 entry \(index) names an L2 table at \(tableOffset), which isn't a whole cluster of the file"
  }

  static func table(at offset: UInt64) -> L1Entry { L1Entry(raw: L2Entry.copiedFlag | offset) }
}
