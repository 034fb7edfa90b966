import Bytes
import BlockCore

/// The header of an open image, and its changes in the file, one at a time. What isn't changed is written as it was
/// read. A change that fails latches the file.
///
/// Fields stand in the file's first sector: their change is one write. See ``HeaderRewrite`` for that of extensions.
final class HeaderOnDisk {
  static let sectorByteCount = 512

  private(set) var value: Qcow2Header
  /// All that the header takes, in whole sectors.
  private var area: [UInt8]
  private let file: ImageFile
  private let turn = RangeLock()

  /// Reads the header's bytes beside the header, which was decoded from them.
  init(_ value: Qcow2Header, file: ImageFile) async throws(BlockError) {
    self.value = value
    self.file = file
    area = []
    let first = try await read(Self.sectorByteCount)
    area = try await read(value.areaByteCount(firstSector: first))
  }

  private func read(_ count: Int) async throws(BlockError) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: count)
    var span = bytes.mutableSpan
    var raw = span.mutableBytes
    try await file.read(into: &raw, at: 0)
    return bytes
  }

  /// Names another refcount table, which is durable already. Durable when it returns.
  func moveRefcountTable(to offset: UInt64, clusterCount: Int) async throws(BlockError) {
    try await alone { () async throws(BlockError) in
      value.refcountTableOffset = offset
      value.refcountTableClusterCount = clusterCount
      try await store(value.encodedRefcountTable(), at: Qcow2Header.FieldOffset.refcountTable)
    }
  }

  /// Sets the virtual size and the place of the L1 table, which is durable already. Durable when it returns.
  func setSize(_ byteCount: UInt64, l1Offset: UInt64, l1EntryCount: Int) async throws(BlockError) {
    try await alone { () async throws(BlockError) in
      value.virtualByteCount = byteCount
      value.l1Offset = l1Offset
      value.l1EntryCount = l1EntryCount
      try await store(value.encodedSizeAndL1(), at: Qcow2Header.FieldOffset.virtualByteCount)
    }
  }

  /// Autoclear bits vouch for what only their makers keep right: a writer that doesn't know them clears them first.
  func clearAutoclear(besides kept: Qcow2Header.Autoclear) async throws(BlockError) {
    try await alone { () async throws(BlockError) in
      guard !value.autoclear.isSubset(of: kept) else { return }
      value.autoclear.formIntersection(kept)
      var bytes: [UInt8] = []
      bytes.append(bigEndian: value.autoclear.rawValue)
      try await store(bytes, at: Qcow2Header.FieldOffset.autoclear)
    }
  }

  /// The refcounts are right, durably.
  func clearDirty() async throws(BlockError) {
    try await alone { () async throws(BlockError) in
      value.incompatible.remove(.dirty)
      var bytes: [UInt8] = []
      bytes.append(bigEndian: value.incompatible.rawValue)
      try await store(bytes, at: Qcow2Header.FieldOffset.incompatible)
    }
  }

  /// Changes fields and extensions together: durable when it returns, and whatever is cut off, all or nothing.
  ///
  /// - Throws: `noSpace`, with nothing changed, if the first cluster has no room.
  func change(_ body: (inout Qcow2Header) -> Void) async throws(BlockError) {
    try await alone { () async throws(BlockError) in
      var wanted = value
      body(&wanted)
      if wanted == value { return }
      let rewrite = try HeaderRewrite(from: area, to: wanted)
      for step in rewrite.steps {
        try await file.writeTable(step.bytes.span.bytes, at: UInt64(step.offset), of: .header)
        try await file.flush()
      }
      value = rewrite.value
      area = rewrite.area
    }
  }

  private func alone(_ body: () async throws(BlockError) -> Void) async throws(BlockError) {
    let hold = await turn.acquire(ByteRange(offset: 0, length: 1), .exclusive)
    defer { turn.release(hold) }
    try await body()
  }

  private func store(_ bytes: [UInt8], at offset: Int) async throws(BlockError) {
    area.replaceSubrange(offset..<offset + bytes.count, with: bytes)
    let changed = Array(area[..<Self.sectorByteCount])
    try await file.writeTable(changed.span.bytes, at: 0, of: .header)
    try await file.flush()
  }
}

extension Qcow2Header {
  /// Bytes of the file that the header takes with its extensions and the backing file's name, in whole sectors.
  fileprivate func areaByteCount(firstSector: [UInt8]) -> Int {
    let bytes = firstSector.span.bytes
    let fixed = version == 2 ? Self.version2ByteCount : Int(bytes.bigEndian(UInt32.self, at: 100))
    // With the mark of their end.
    let extensionsEnd = extensions.reduce(fixed + 8) { $0 + $1.encodedByteCount }
    let nameOffset: UInt64 = bytes.bigEndian(at: 8)
    let nameEnd = nameOffset == 0 ? 0 : Int(nameOffset) + Int(bytes.bigEndian(UInt32.self, at: 16))
    let end = min(max(extensionsEnd, nameEnd), Int(clusterByteCount))
    return (end + HeaderOnDisk.sectorByteCount - 1) / HeaderOnDisk.sectorByteCount * HeaderOnDisk.sectorByteCount
  }
}
