/// How the compressed clusters of an image are compressed (qcow2.txt, "Additional fields").
package enum CompressionType: UInt8, Hashable, Sendable, Codable {
  case zlib = 0
  case zstd = 1
}

/// The header of an image with its extensions: a value that is decoded from and encoded to cluster 0 (qcow2.txt,
/// "Header").
///
/// It names the offsets of all else: the active L1 table, the refcount table, the snapshot table, and by an extension
/// the bitmaps. Version 2 ends behind these; version 3 adds three sets of feature bits, by which programs of different
/// ages get on: an unknown *incompatible* bit forbids to open the image, an unknown *compatible* one means nothing, and
/// an unknown *autoclear* one is cleared by a writer, as what it vouches for may be wrong afterwards.
///
/// What isn't understood (extensions, header bytes past the known fields) is kept as it stands.
package struct Qcow2Header: Hashable, Sendable {
  package static let magic: UInt32 = 0x5146_49fb
  package static let clusterBitsRange = 9...21
  /// Extended L2 entries want clusters at least this large, for subclusters of at least a sector.
  package static let minimumSubclusteredByteCount = 16 << 10
  package static let maximumRefcountOrder = 6
  /// Limits that QEMU sets too; they bound what an image can make us allocate.
  package static let maximumL1ByteCount = 32 << 20
  package static let maximumRefcountTableByteCount = 8 << 20
  package static let maximumBackingNameByteCount = 1023
  package static let maximumSnapshotCount = 65536
  /// The longest name of a backing file's format that QEMU reads.
  static let maximumBackingFormatByteCount = 15
  /// The longest path that the kernel takes.
  static let maximumDataFileNameByteCount = 4095

  /// Byte counts of the two fixed forms: version 2, and version 3 without additional fields.
  static let version2ByteCount = 72
  static let version3ByteCount = 104

  package struct Incompatible: OptionSet, Hashable, Sendable {
    package let rawValue: UInt64
    package init(rawValue: UInt64) { self.rawValue = rawValue }
    package static let dirty = Incompatible(rawValue: 1)
    package static let corrupt = Incompatible(rawValue: 2)
    package static let externalDataFile = Incompatible(rawValue: 4)
    package static let compressionType = Incompatible(rawValue: 8)
    package static let extendedL2 = Incompatible(rawValue: 16)
    static let known: Incompatible = [.dirty, .corrupt, .externalDataFile, .compressionType, .extendedL2]
  }

  package struct Autoclear: OptionSet, Hashable, Sendable {
    package let rawValue: UInt64
    package init(rawValue: UInt64) { self.rawValue = rawValue }
    package static let bitmaps = Autoclear(rawValue: 1)
    package static let rawExternalData = Autoclear(rawValue: 2)
    /// Ours; unknown to others, and so cleared by them: see ``TrackingMark``.
    package static let trackingMark = Autoclear(rawValue: 1 << 63)
  }

  package enum Encryption: UInt32, Hashable, Sendable { case none = 0, aes, luks }

  package var version: UInt32 = 3
  package var backingName: [UInt8]?
  package var clusterBits = 16
  package var virtualByteCount: UInt64 = 0
  package var encryption: Encryption = .none
  package var l1EntryCount = 0
  package var l1Offset: UInt64 = 0
  package var refcountTableOffset: UInt64 = 0
  package var refcountTableClusterCount = 0
  package var snapshotCount = 0
  package var snapshotsOffset: UInt64 = 0
  package var incompatible: Incompatible = []
  package var compatibleBits: UInt64 = 0
  package var autoclear: Autoclear = []
  package var refcountOrder = 4
  package var compressionType: CompressionType = .zlib
  /// Header bytes behind the compression type's, padding included.
  package var additionalFields: [UInt8] = []
  package var extensions: [HeaderExtension] = []

  package init() {}

  package var clusterByteCount: UInt64 { 1 << UInt64(clusterBits) }
  package var refcountBits: Int { 1 << refcountOrder }
  /// L2 entries are 8 bytes, or 16 with subclusters.
  package var l2EntryByteCount: UInt64 { incompatible.contains(.extendedL2) ? 16 : 8 }
  /// Guest bytes that one L2 table maps.
  package var l2Coverage: UInt64 { clusterByteCount / l2EntryByteCount * clusterByteCount }

  /// Bytes of the active L1 table, in the file and in memory.
  var l1ByteCount: Int { l1EntryCount * 8 }

  func contents(ofExtension type: UInt32) -> [UInt8]? { extensions.first { $0.type == type }?.contents }

  /// The backing file's format, where the image states it.
  package var backingFormat: String? {
    contents(ofExtension: HeaderExtension.Kind.backingFormat).map { String(decoding: $0, as: UTF8.self) }
  }

  /// What the image itself calls the features it knows.
  package var featureNames: [FeatureName] {
    contents(ofExtension: HeaderExtension.Kind.featureNames).map(FeatureName.table) ?? []
  }

  /// The name of a feature bit: the image's own word, else ours, else none.
  func name(of field: FeatureName.Field, bit: Int) -> String? {
    let names = featureNames + FeatureName.known
    return names.first { $0.field == field && $0.bit == bit }?.name
  }

  /// L1 entries that `byteCount` guest bytes need.
  func l1EntryCount(for byteCount: UInt64) -> UInt64 {
    let (quotient, remainder) = byteCount.quotientAndRemainder(dividingBy: l2Coverage)
    return remainder == 0 ? quotient : quotient + 1
  }
}
