import BlockCore
import Buffers

/// Bitmaps of a disk that changes its size. QEMU doesn't open an image with a consistent bitmap whose table hasn't the
/// length that the disk's size asks for. So both change in one step.
extension Qcow2Image {
  private var consistentBitmaps: [AllocatedBitmap] {
    guard let disk = bitmapsOnDisk, disk.areTrusted else { return [] }
    return disk.bitmaps.filter { !$0.entry.isInUse }
  }

  /// Throws if a consistent bitmap can't follow.
  func checkBitmaps(resizingTo byteCount: UInt64) throws(BlockError) {
    for entry in consistentBitmaps.map(\.entry) {
      let geometry = BitmapGeometry(
        virtualByteCount: byteCount, granularityByteCount: entry.granularityByteCount,
        clusterByteCount: clusterByteCount)
      guard entry.isUnderstood, entry.limitDamage(of: header.value) == nil, geometry.clusterCount > 0,
        UInt64(geometry.clusterCount) * file.clusterByteCount <= BitmapEntry.maximumBitmapByteCount
      else {
        throw BlockError(.notSupported, .resize, cause: "bitmap \(entry.shortName) can't follow; remove it first")
      }
    }
  }

  /// Sets the size in the header, the L1 table being durable, and the bitmaps' tables with it. The image is at rest.
  func setSize(_ byteCount: UInt64) async throws(BlockError) {
    let consistent = consistentBitmaps
    guard let disk = bitmapsOnDisk, !consistent.isEmpty else {
      return try await header.setSize(byteCount, l1Offset: map.l1Offset, l1EntryCount: map.l1.count)
    }
    var writer = BitmapWriter(file: file, refcounts: refcounts)
    do throws(BlockError) {
      var new = disk.bitmaps
      for index in new.indices where !new[index].entry.isInUse {
        let entry = new[index].entry
        let geometry = BitmapGeometry(
          virtualByteCount: byteCount, granularityByteCount: entry.granularityByteCount,
          clusterByteCount: clusterByteCount)
        let source = StoredBits(image: self, entry: entry, table: try await table(of: entry))
        new[index] = try await writer.write(source, geometry)
      }
      try await disk.replace(with: new, storing: [], &writer) { [map] value in
        value.virtualByteCount = byteCount
        value.l1Offset = map.l1Offset
        value.l1EntryCount = map.l1.count
      }
    } catch {
      await writer.giveBack()
      throw error
    }
  }
}

/// A bitmap of an image, to be stored again.
private struct StoredBits: BitmapSource {
  let image: Qcow2Image
  let entry: BitmapEntry
  let table: BitmapTable

  var name: [UInt8] { entry.nameBytes }
  var granularityByteCount: UInt64 { entry.granularityByteCount }
  var isAuto: Bool { entry.isAuto }
  var isInUse: Bool { entry.isInUse }

  func bits(ofCluster index: Int, into bytes: inout MutableRawSpan) async throws(BlockError) -> ClusterOfBits {
    guard index < table.clusterCount, table[index] != .zeroes else { return .zeroes }
    try await image.readBits(ofCluster: index, of: table, into: &bytes)
    return .mixed
  }
}
