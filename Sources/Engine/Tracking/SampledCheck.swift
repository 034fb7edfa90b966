import Bitmaps
import BlockCore
import Buffers
import Failures
import Model
import Repositories

/// Looks whether what a bitmap calls unchanged is so, in a few grains chosen by chance: each is read, hashed, and compared
/// with the hash of the backup that is built on. A bitmap that missed a change would otherwise be silent for ever.
struct SampledCheck {
  /// Grains of one backup, at most: 16 MiB of reading.
  static let maximumCount = 256

  /// The grains, by their leaves.
  let leaves: [UInt64]
  let source: any BlockDevice
  let base: BackupSink.Base
  let work: any BackgroundWork

  /// - Returns: the first grain that isn't what it should be, of those that were looked at; nil if all are.
  nonisolated(nonsending)
    func firstMissed(_ checkpoint: () async throws -> Void) async throws -> ByteRange?
  {
    for leaf in leaves {
      try await checkpoint()
      let grain = base.hashes.tree.grain(leaf)
      let count = Int(min(grain.upperBound, source.byteCount) - grain.lowerBound)
      let bytes = try await read(at: grain.lowerBound, count)
      let found = await work.run { HashTree.leaf(of: bytes.span.bytes) }
      let expected = try await tellingAboutHashes(base.name) { try await base.hashes.leaves(leaf..<leaf + 1) }
      if found != expected[0] { return ByteRange(grain) }
    }
    return nil
  }

  nonisolated(nonsending)
    private func read(at offset: UInt64, _ count: Int) async throws(BlockError) -> [UInt8]
  {
    var bytes = [UInt8](repeating: 0, count: count)
    var span = bytes.mutableSpan
    var raw = span.mutableBytes
    try await source.read(into: &raw, at: offset)
    return bytes
  }

  /// Leaves that stand for the same bytes in a disk and in what it is compared with, and aren't called changed.
  /// - Parameter share: of the clean grains, from 0 to 1.
  static func choose(
    share: Double, byteCount: UInt64, of other: HashTree, besides changes: DirtyBitmap
  ) -> [UInt64] {
    let grain = UInt64(HashTree.grainByteCount)
    let common = byteCount == other.byteCount ? other.leafCount : min(byteCount, other.byteCount) / grain
    let dirty = (changes.dirtyByteCount + grain - 1) / grain
    guard share > 0, common > dirty else { return [] }
    let wanted = min(maximumCount, Int((Double(common - dirty) * share).rounded(.up)))
    var chosen: Set<UInt64> = []
    // Most of a disk is clean; where little of it is, fewer are looked at.
    for _ in 0..<4 * wanted where chosen.count < wanted {
      let leaf = UInt64.random(in: 0..<common)
      if changes.nextDirty(from: leaf * grain, before: (leaf + 1) * grain) == nil { chosen.insert(leaf) }
    }
    return chosen.sorted()
  }
}
