import Bytes
import BlockCore

/// The header of an open image, and its changes in place: each is one write of the file's first sector, in which
/// all fields stand. What isn't changed is written as it was read.
final class HeaderOnDisk {
  static let sectorByteCount = 512

  private(set) var value: Qcow2Header
  private var sector: [UInt8]
  private let file: ImageFile

  /// Reads the first sector beside the header, which was decoded from it.
  init(_ value: Qcow2Header, file: ImageFile) async throws(BlockError) {
    self.value = value
    self.file = file
    var bytes = [UInt8](repeating: 0, count: Self.sectorByteCount)
    var span = bytes.mutableSpan
    var raw = span.mutableBytes
    try await file.read(into: &raw, at: 0)
    sector = bytes
  }

  /// Names another refcount table, which is durable already. Durable when it returns.
  func moveRefcountTable(to offset: UInt64, clusterCount: Int) async throws(BlockError) {
    value.refcountTableOffset = offset
    value.refcountTableClusterCount = clusterCount
    try await store(value.encodedRefcountTable(), at: Qcow2Header.FieldOffset.refcountTable)
  }

  /// Sets the virtual size and the place of the L1 table, which is durable already. Durable when it returns.
  func setSize(_ byteCount: UInt64, l1Offset: UInt64, l1EntryCount: Int) async throws(BlockError) {
    value.virtualByteCount = byteCount
    value.l1Offset = l1Offset
    value.l1EntryCount = l1EntryCount
    try await store(value.encodedSizeAndL1(), at: Qcow2Header.FieldOffset.virtualByteCount)
  }

  /// Autoclear bits vouch for what only their makers keep right: a writer that doesn't know them clears them first.
  func clearAutoclear(besides kept: Qcow2Header.Autoclear) async throws(BlockError) {
    guard !value.autoclear.isSubset(of: kept) else { return }
    value.autoclear.formIntersection(kept)
    var bytes: [UInt8] = []
    bytes.append(bigEndian: value.autoclear.rawValue)
    try await store(bytes, at: Qcow2Header.FieldOffset.autoclear)
  }

  /// The refcounts are right, durably.
  func clearDirty() async throws(BlockError) {
    value.incompatible.remove(.dirty)
    var bytes: [UInt8] = []
    bytes.append(bigEndian: value.incompatible.rawValue)
    try await store(bytes, at: Qcow2Header.FieldOffset.incompatible)
  }

  private func store(_ bytes: [UInt8], at offset: Int) async throws(BlockError) {
    sector.replaceSubrange(offset..<offset + bytes.count, with: bytes)
    let changed = sector
    try await file.writeTable(changed.span.bytes, at: 0, of: .header)
    try await file.flush()
  }
}
