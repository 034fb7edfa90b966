import BlockCore
import Repositories

/// The sizes that a copy, its hash tree and its target agree on, in bytes.
package struct ChunkGeometry: Hashable, Sendable {
  /// What one leaf of the hash tree stands for.
  package let grain: Int
  /// What is compressed at once: a cluster of the target.
  package let cluster: Int
  /// What is read, hashed and written at once, at most.
  package let chunk: Int

  /// Grains and clusters of 64 KiB, chunks of 1 MiB.
  package static let standard = ChunkGeometry()

  /// - Precondition: grain and cluster divide one another one way or the other, and both divide a chunk.
  package init(grain: Int = HashTree.grainByteCount, cluster: Int = HashTree.grainByteCount, chunk: Int = 1 << 20) {
    precondition(max(grain, cluster) % min(grain, cluster) == 0 && chunk % grain == 0 && chunk % cluster == 0)
    self.grain = grain
    self.cluster = cluster
    self.chunk = chunk
  }

  /// What is copied begins and ends at a multiple of this, or at the disk's end: at whole grains and clusters.
  package var unit: Int { max(grain, cluster) }

  /// The leaves of a range that begins at a grain.
  package func leaves(of range: ByteRange) -> Range<UInt64> {
    let grain = UInt64(grain)
    let first = range.offset / grain
    return first..<first + (range.length + grain - 1) / grain
  }
}
