import Bytes
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

  /// Of the clean grains, from 0 to 1.
  let share: Double
  let source: any BlockDevice
  let base: BackupSink.Base
  /// What the bitmap calls changed: whole grains, in order and apart.
  let changed: [ByteRange]
  let work: any BackgroundWork

  /// - Returns: the first grain that isn't what it should be, of those that were looked at; nil if all are.
  nonisolated(nonsending)
    func firstMissed(_ checkpoint: () async throws -> Void) async throws -> ByteRange?
  {
    for leaf in chosen() {
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

  /// Leaves that stand for the same bytes in both, and aren't called changed.
  private func chosen() -> [UInt64] {
    let grain = UInt64(HashTree.grainByteCount)
    let common =
      source.byteCount == base.hashes.tree.byteCount
      ? base.hashes.tree.leafCount : min(source.byteCount, base.hashes.tree.byteCount) / grain
    let dirty = changed.reduce(UInt64(0)) { $0 + ($1.length + grain - 1) / grain }
    guard share > 0, common > dirty else { return [] }
    let wanted = min(Self.maximumCount, Int((Double(common - dirty) * share).rounded(.up)))
    var chosen: Set<UInt64> = []
    // Most of a disk is clean; where little of it is, fewer are looked at.
    for _ in 0..<4 * wanted where chosen.count < wanted {
      let leaf = UInt64.random(in: 0..<common)
      if !isChanged(leaf * grain) { chosen.insert(leaf) }
    }
    return chosen.sorted()
  }

  private func isChanged(_ offset: UInt64) -> Bool {
    var (low, high) = (0, changed.count)
    while low < high {
      let middle = (low + high) / 2
      if changed[middle].end <= offset { low = middle + 1 } else { high = middle }
    }
    return low < changed.count && changed[low].offset <= offset
  }
}
