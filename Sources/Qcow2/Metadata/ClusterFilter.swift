/// A bit for each remainder of a cluster index: clear where none of the clusters that were added can be.
///
/// It is asked before every write, so it does without a table that grows and without the checks of an array.
final class ClusterFilter: @unchecked Sendable {
  // Safe to hand over: it owns its memory, and its owner uses it on one loop.

  /// 128 KiB, of which those pages take memory that have a bit set. A million tables would fill it.
  static let bitCount: UInt64 = 1 << 20

  private let words: UnsafeMutablePointer<UInt64>

  init() {
    let count = Int(Self.bitCount / 64)
    words = .allocate(capacity: count)
    words.initialize(repeating: 0, count: count)
  }

  deinit { words.deallocate() }

  func insert(_ cluster: UInt64) {
    let bit = cluster % Self.bitCount
    words[Int(bit / 64)] |= 1 << (bit % 64)
  }

  /// False where the cluster was never added, as almost everywhere.
  @inline(__always)
  func mayContain(_ cluster: UInt64) -> Bool {
    let bit = cluster % Self.bitCount
    return words[Int(bit / 64)] >> (bit % 64) & 1 == 1
  }
}
