import Bitmaps
import BlockCore
import Model
import Qcow2

/// A dirty bitmap that is to be stored in a qcow2 image.
struct BitmapToStore: BitmapSource {
  let name: [UInt8]
  let isAuto: Bool
  var isInUse = false
  let bitmap: DirtyBitmap
  let clusterByteCount: Int

  var granularityByteCount: UInt64 { bitmap.granularity }

  nonisolated(nonsending)
    func bits(ofCluster index: Int, into bytes: inout MutableRawSpan) async throws(BlockError) -> ClusterOfBits
  {
    switch bitmap.bits(fromByte: UInt64(index) * UInt64(clusterByteCount), into: &bytes) {
    case .clear: .zeroes
    case .set: .ones
    case .mixed: .mixed
    }
  }
}

extension Qcow2Image {
  /// Loads a bitmap. What the image has gained since the bitmap was stored, as far as the lengths tell, is dirty.
  nonisolated(nonsending)
    func load(_ entry: BitmapEntry) async throws(BlockError) -> DirtyBitmap
  {
    guard DirtyBitmap.isPossible(granularity: entry.granularityByteCount, byteCount: byteCount) else {
      throw BlockError(.notSupported, .read, cause: "a bitmap of so many bits")
    }
    var bitmap = DirtyBitmap(byteCount: byteCount, granularity: entry.granularityByteCount)
    let table = try await table(of: entry)
    let known = min(table.clusterCount, table.geometry.clusterCount)
    let covered = table.geometry.coveredByteCount
    var bytes = [UInt8](repeating: 0, count: clusterByteCount)
    for index in 0..<known {
      switch table[index] {
      case .zeroes: continue
      case .ones: bitmap.set(ByteRange(offset: UInt64(index) * covered, length: covered))
      case .mixed:
        do {
          var span = bytes.mutableSpan
          var raw = span.mutableBytes
          try await readBits(ofCluster: index, of: table, into: &raw)
        }
        bitmap.set(bits: bytes.span.bytes, fromByte: UInt64(index) * UInt64(clusterByteCount))
      }
    }
    if table.fit == .shorter { bitmap.set(ByteRange(UInt64(known) * covered..<byteCount)) }
    return bitmap
  }
}

// MARK: Sets

extension BitmapSet {
  /// The bitmaps as the image has them, without their bits.
  init(_ stored: StoredBitmaps, byteCount: UInt64) {
    self.init(
      byteCount: byteCount,
      stored.entries.filter { $0.nameBytes != CrashRecord.witnessName }.map { entry in
        let isKnown =
          entry.isUnderstood && DirtyBitmap.isPossible(granularity: entry.granularityByteCount, byteCount: byteCount)
        let flaw: Flaw? =
          if !stored.areTrusted { .orphaned } else if !isKnown { .foreign } else {
            entry.isInUse ? .inconsistent : nil
          }
        return Bitmap(
          name: entry.nameBytes, granularity: entry.granularityByteCount, isRecording: entry.isAuto, flaw: flaw)
      })
  }
}

extension Qcow2Image {
  nonisolated(nonsending)
    func load(named name: [UInt8]) async throws(BlockError) -> DirtyBitmap
  {
    guard let entry = try await bitmaps().entry(named: name) else {
      throw BlockError(.corrupt("a bitmap that its directory doesn't have"), .read)
    }
    return try await load(entry)
  }

  /// The change that stores a bitmap as it is now; nil without its bits.
  func storing(_ bitmap: BitmapSet.Bitmap, isInUse: Bool) -> BitmapChange? {
    guard let bits = bitmap.bits else { return nil }
    // A disk that shrank has fewer granules than were recorded.
    let fitting = bits.byteCount == byteCount ? bits : bits.resized(to: byteCount, isGrowthDirty: true)
    return .store(
      BitmapToStore(
        name: bitmap.name, isAuto: bitmap.isRecording, isInUse: isInUse, bitmap: fitting,
        clusterByteCount: clusterByteCount))
  }

  /// Makes some of the file's bitmaps those of another set, in one durable step.
  /// - Parameters:
  ///   - names: of all that differ.
  ///   - isOpen: those that record go on doing so here, and are in use in the file. Their bits are there for after a crash.
  nonisolated(nonsending)
    func store(
      _ names: [[UInt8]], of new: BitmapSet, insteadOf old: BitmapSet, isOpen: Bool
    ) async throws(BlockError)
  {
    var changes: [BitmapChange] = []
    for name in names {
      let before = old[name].flatMap { $0.isPersistent && $0.flaw != .orphaned ? $0 : nil }
      let after = new[name].flatMap { $0.isPersistent && $0.flaw == nil ? $0 : nil }
      if let before, after == nil || before.flaw != nil { changes.append(.remove(name: name)) }
      guard let after else { continue }
      let isInUse = isOpen && after.isRecording
      if let change = storing(after, isInUse: isInUse) { changes.append(change) }
    }
    let endsOrphans = old.bitmaps.contains { $0.flaw == .orphaned } && !new.bitmaps.contains { $0.flaw == .orphaned }
    if !changes.isEmpty || endsOrphans { try await changeBitmaps(changes) }
  }
}
