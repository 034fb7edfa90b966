import Bitmaps
import BlockCore
import Model
import Qcow2

/// A dirty bitmap that is to be stored in a qcow2 image.
struct BitmapToStore: BitmapSource {
  let name: [UInt8]
  let isAuto: Bool
  let isInUse = false
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
