import BlockCore

extension Qcow2Header {
  /// Checks the header against the file it stands in: alignment, tables inside the file, sizes that fit together.
  func checkLayout(fileByteCount: UInt64) throws(Qcow2Error) {
    try checkTable("L1 table", at: l1Offset, byteCount: UInt64(l1EntryCount) * 8, fileByteCount)
    try checkTable(
      "refcount table", at: refcountTableOffset,
      byteCount: UInt64(refcountTableClusterCount) * clusterByteCount, fileByteCount)
    guard l1EntryCount(for: virtualByteCount) <= UInt64(l1EntryCount) else {
      throw .damaged("header: \(l1EntryCount) L1 entries are too few for \(virtualByteCount) bytes")
    }
    if snapshotCount > 0 { try checkTable("snapshot table", at: snapshotsOffset, byteCount: 40, fileByteCount) }
  }

  private func checkTable(
    _ name: String, at offset: UInt64, byteCount: UInt64, _ fileByteCount: UInt64
  ) throws(Qcow2Error) {
    guard byteCount > 0 else { return }
    guard offset != 0, offset % clusterByteCount == 0 else {
      throw .damaged("header: the \(name)'s offset \(offset) is not that of a cluster")
    }
    let (end, overflow) = offset.addingReportingOverflow(byteCount)
    guard !overflow, end <= fileByteCount else {
      throw .damaged("header: the \(name) at \(offset) reaches past the end of the file")
    }
  }

  /// Refuses, by name, what this implementation can't read right.
  func checkFeatures() throws(Qcow2Error) {
    let unknown = incompatible.subtracting(.known).rawValue
    if unknown != 0 {
      let bit = unknown.trailingZeroBitCount
      let name = name(of: .incompatible, bit: bit) ?? "no name given"
      throw .unsupportedFeature("incompatible feature bit \(bit) (\(name))")
    }
    switch encryption {
    case .none: break
    case .aes: throw .unsupportedFeature("AES encryption")
    case .luks: throw .unsupportedFeature("LUKS encryption")
    }
    if incompatible.contains(.externalDataFile), snapshotCount > 0 {
      throw .unsupportedFeature("internal snapshots of an image with an external data file")
    }
  }

  /// Autoclear bits that stay true while we write: an external data file always holds the guest's bytes as they are,
  /// and bitmaps that are kept say themselves what of them is consistent.
  func keptAutoclear(_ bitmaps: BitmapsOnDisk?) -> Autoclear {
    var kept: Autoclear = incompatible.contains(.externalDataFile) ? .rawExternalData : []
    if bitmaps != nil { kept.insert(.bitmaps) }
    return kept
  }

  /// The external data file's name; empty where the image doesn't say.
  var dataFileName: String? {
    guard incompatible.contains(.externalDataFile) else { return nil }
    return String(decoding: contents(ofExtension: HeaderExtension.Kind.externalDataFile) ?? [], as: UTF8.self)
  }

  /// Refuses what can be read but not kept right when written.
  func checkWritable(_ bitmaps: BitmapPolicy) throws(Qcow2Error) {
    if incompatible.contains(.corrupt) {
      throw .notWritable("it is marked corrupt; repair it first (qemu-img check -r all)")
    }
    if bitmaps == .refuse, contents(ofExtension: HeaderExtension.Kind.bitmaps) != nil {
      throw .notWritable("it carries dirty bitmaps, which a write would make wrong")
    }
  }

  /// The reference to the backing file, if there is one. `depth` is the place of the backing file in its chain.
  func backingReference(depth: Int) throws(Qcow2Error) -> BackingReference? {
    guard let backingName else { return nil }
    guard let name = String(validating: backingName, as: UTF8.self), !name.utf8.contains(0) else {
      throw .unsupportedFeature("a backing file name that is not UTF-8 text")
    }
    return BackingReference(name: name, format: backingFormat, depth: depth)
  }
}

/// What an image says of its backing file. Whether the name may be followed is the opener's decision.
package struct BackingReference: Hashable, Sendable {
  package var name: String
  /// The format that the image states; without it a file must not be opened, since a guest can write any header.
  package var format: String?
  /// 1 = the backing file of the image that was opened first, 2 = that one's, …
  package var depth: Int
  /// What the L1 tables of the images above take in memory: for the options that it is opened with.
  package var tableByteCountAbove = 0

  package init(name: String, format: String?, depth: Int) {
    self.name = name
    self.format = format
    self.depth = depth
  }
}
