import Bitmaps
import Repositories

extension DirtyBitmap {
  /// One with a bit for each grain of the hash tree, or for several where the disk has more grains than a bitmap has bits.
  static func ofGrains(byteCount: UInt64) -> DirtyBitmap {
    var granularity = UInt64(HashTree.grainByteCount)
    while !isPossible(granularity: granularity, byteCount: byteCount) { granularity *= 2 }
    return DirtyBitmap(byteCount: byteCount, granularity: granularity)
  }
}
