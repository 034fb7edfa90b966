import Bytes

/// From bytes to the header: what each field may say by itself. How they fit together and to the file is checked in
/// Qcow2Header+Checks.swift.
extension Qcow2Header {
  /// Enough bytes from the start of the file to learn the cluster size.
  package static let prefixByteCount = 512

  /// The cluster size in bytes, from the first ``version2ByteCount`` bytes of the file: what to read for `init`.
  package static func clusterByteCount(prefix: RawSpan) throws(Qcow2Error) -> Int {
    guard prefix.byteCount >= version2ByteCount, prefix.bigEndian(UInt32.self, at: 0) == magic else {
      throw .notQcow2
    }
    let version: UInt32 = prefix.bigEndian(at: 4)
    guard version == 2 || version == 3 else { throw .unsupportedVersion(version) }
    let clusterBits: UInt32 = prefix.bigEndian(at: 20)
    guard clusterBits <= 64, clusterBitsRange.contains(Int(clusterBits)) else {
      throw .damaged("header: cluster_bits is \(clusterBits), not in \(clusterBitsRange)")
    }
    return 1 << Int(clusterBits)
  }

  /// Decodes cluster 0 (or what the file has of it) and checks every field by itself.
  package init(decoding cluster: RawSpan) throws(Qcow2Error) {
    let clusterByteCount = try Self.clusterByteCount(prefix: cluster)
    let bytes = cluster.extracting(0..<min(cluster.byteCount, clusterByteCount))
    self.init()
    version = bytes.bigEndian(at: 4)
    clusterBits = clusterByteCount.trailingZeroBitCount
    let headerByteCount = try decodeVersion3(bytes)
    try decodeCommon(bytes)
    let nameOffset: UInt64 = bytes.bigEndian(at: 8)
    try decodeBackingName(bytes, at: nameOffset, length: bytes.bigEndian(at: 16))
    try decodeExtensions(bytes, from: headerByteCount, to: nameOffset == 0 ? bytes.byteCount : Int(nameOffset))
  }

  private mutating func decodeCommon(_ bytes: RawSpan) throws(Qcow2Error) {
    virtualByteCount = bytes.bigEndian(at: 24)
    guard virtualByteCount % 512 == 0, virtualByteCount <= UInt64(Int64.max) else {
      throw .damaged("header: the virtual size \(virtualByteCount) is not a multiple of 512 below 2^63")
    }
    let method: UInt32 = bytes.bigEndian(at: 32)
    guard let encryption = Encryption(rawValue: method) else {
      throw .unsupportedFeature("encryption method \(method)")
    }
    self.encryption = encryption
    l1EntryCount = Int(bytes.bigEndian(UInt32.self, at: 36))
    l1Offset = bytes.bigEndian(at: 40)
    refcountTableOffset = bytes.bigEndian(at: 48)
    refcountTableClusterCount = Int(bytes.bigEndian(UInt32.self, at: 56))
    snapshotCount = Int(bytes.bigEndian(UInt32.self, at: 60))
    snapshotsOffset = bytes.bigEndian(at: 64)
    guard l1EntryCount * 8 <= Self.maximumL1ByteCount else {
      throw .damaged("header: the L1 table has \(l1EntryCount) entries, more than \(Self.maximumL1ByteCount / 8)")
    }
    let tableByteCount = UInt64(refcountTableClusterCount) << UInt64(clusterBits)
    guard tableByteCount > 0, tableByteCount <= UInt64(Self.maximumRefcountTableByteCount) else {
      throw .damaged("header: the refcount table has \(refcountTableClusterCount) clusters")
    }
    guard snapshotCount <= Self.maximumSnapshotCount else {
      throw .damaged("header: \(snapshotCount) snapshots, more than \(Self.maximumSnapshotCount)")
    }
  }

  /// Decodes what only version 3 has; returns the header's length in bytes.
  private mutating func decodeVersion3(_ bytes: RawSpan) throws(Qcow2Error) -> Int {
    guard version >= 3 else { return Self.version2ByteCount }
    guard bytes.byteCount >= Self.version3ByteCount else { throw .damaged("header: the file ends inside it") }
    incompatible = Incompatible(rawValue: bytes.bigEndian(at: 72))
    compatibleBits = bytes.bigEndian(at: 80)
    autoclear = Autoclear(rawValue: bytes.bigEndian(at: 88))
    let order: UInt32 = bytes.bigEndian(at: 96)
    let headerLength: UInt32 = bytes.bigEndian(at: 100)
    guard order <= UInt32(Self.maximumRefcountOrder) else { throw .damaged("header: refcount_order is \(order)") }
    refcountOrder = Int(order)
    guard headerLength >= UInt32(Self.version3ByteCount), headerLength % 8 == 0, headerLength <= bytes.byteCount else {
      throw .damaged("header: header_length is \(headerLength)")
    }
    let end = Int(headerLength)
    let type: UInt8 = end > 104 ? bytes.bigEndian(at: 104) : 0
    additionalFields = end > 105 ? bytes.array(105..<end) : []
    guard let compressionType = CompressionType(rawValue: type) else {
      throw .unsupportedFeature("compression type \(type)")
    }
    guard incompatible.contains(.compressionType) == (type != 0) else {
      throw .damaged("header: compression type \(type) contradicts the compression type bit")
    }
    self.compressionType = compressionType
    if incompatible.contains(.extendedL2), 1 << clusterBits < Self.minimumSubclusteredByteCount {
      throw .damaged("header: extended L2 entries with clusters below 16 KiB")
    }
    return end
  }

  private mutating func decodeBackingName(_ bytes: RawSpan, at offset: UInt64, length: UInt32) throws(Qcow2Error) {
    guard offset != 0 else { return }
    guard length <= UInt32(Self.maximumBackingNameByteCount) else {
      throw .damaged("header: the backing file name is \(length) bytes long")
    }
    let (end, overflow) = offset.addingReportingOverflow(UInt64(length))
    guard !overflow, end <= UInt64(bytes.byteCount) else {
      throw .damaged("header: the backing file name lies outside of cluster 0")
    }
    guard length > 0 else { return }
    backingName = bytes.array(Int(offset)..<Int(end))
  }

  /// The area ends at its end mark, at the backing file name or at the end of cluster 0.
  private mutating func decodeExtensions(_ bytes: RawSpan, from start: Int, to end: Int) throws(Qcow2Error) {
    var position = start
    while position <= end - 8 {
      let type: UInt32 = bytes.bigEndian(at: position)
      let length: UInt32 = bytes.bigEndian(at: position + 4)
      if type == HeaderExtension.Kind.end { return }
      position += 8
      guard length <= end - position else {
        throw .damaged("header: extension 0x\(String(type, radix: 16)) is longer than its area")
      }
      try Self.checkName(ofExtension: type, byteCount: Int(length))
      extensions.append(HeaderExtension(type: type, contents: bytes.array(position..<position + Int(length))))
      position += (Int(length) + 7) / 8 * 8
    }
  }

  /// Names go into answers and errors as they stand.
  private static func checkName(ofExtension type: UInt32, byteCount: Int) throws(Qcow2Error) {
    switch type {
    case HeaderExtension.Kind.backingFormat where byteCount > maximumBackingFormatByteCount:
      throw .damaged("header: the backing file format is \(byteCount) bytes long")
    case HeaderExtension.Kind.externalDataFile where byteCount > maximumDataFileNameByteCount:
      throw .damaged("header: the data file name is \(byteCount) bytes long")
    default: break
    }
  }
}
