import Bytes
import BlockCore
import Buffers

/// The shape of the hash tree over a guest's data, and how its nodes are made.
///
/// - A leaf stands for one grain of 64 KiB (the last may be short): its SHA-256, or ``Digest/zero`` if all its bytes
///   are zero.
/// - An inner node is `SHA-256("cobweb node 1\0" ‖ left ‖ right)`, or ``Digest/zero`` if both are; a missing right
///   child counts as zero.
/// - The root is `SHA-256("cobweb root 1\0" ‖ size ‖ grain ‖ top)`, sizes in bytes as 64-bit big-endian numbers; `top`
///   is the one node of the lowest level that has a single one.
///
/// So the root depends on nothing but the size and the bytes, never on what is stored how; the size fixes the shape,
/// so that no node can pass for one of another level.
package struct HashTree: Hashable, Sendable {
  package static let grainByteCount = 65536
  /// A page of the file holds this many nodes of one level.
  package static let nodesPerPage = 128
  package static let pageByteCount = nodesPerPage * Digest.byteCount
  /// Levels from a page's nodes to the one node over them.
  static let levelsPerPage = 7

  /// One level that the file stores: every seventh, from the leaves up.
  package struct StoredLevel: Hashable, Sendable {
    package let nodeCount: UInt64
    /// Where its first page lies in the file.
    package let fileOffset: UInt64

    package var pageCount: UInt64 { (nodeCount + UInt64(nodesPerPage) - 1) / UInt64(nodesPerPage) }
  }

  /// Bytes of guest data.
  package let byteCount: UInt64
  package let leafCount: UInt64
  /// Leaves first; the last one has a single page. Empty for an image of no bytes.
  package let storedLevels: [StoredLevel]
  /// Bytes of the whole file: the header's page, then the stored levels.
  package let fileByteCount: UInt64

  package init(byteCount: UInt64) {
    self.byteCount = byteCount
    let grain = UInt64(Self.grainByteCount)
    leafCount = byteCount / grain + (byteCount % grain == 0 ? 0 : 1)
    var levels: [StoredLevel] = []
    var offset = UInt64(HashFileHeader.byteCount)
    var count = leafCount
    while count > 0 {
      let level = StoredLevel(nodeCount: count, fileOffset: offset)
      levels.append(level)
      offset += level.pageCount * UInt64(Self.pageByteCount)
      if level.pageCount == 1 { break }
      count = level.pageCount
    }
    storedLevels = levels
    fileByteCount = offset
  }

  package func hasPage(_ index: UInt64, ofLevel level: Int) -> Bool {
    level < storedLevels.count && index < storedLevels[level].pageCount
  }

  /// Where a page lies in the file.
  func place(ofPage index: UInt64, level: Int) -> ByteRange {
    ByteRange(
      offset: storedLevels[level].fileOffset + index * UInt64(Self.pageByteCount), length: UInt64(Self.pageByteCount))
  }

  /// The bytes that leaf `index` stands for.
  package func grain(_ index: UInt64) -> Range<UInt64> {
    let start = index * UInt64(Self.grainByteCount)
    return start..<min(start + UInt64(Self.grainByteCount), byteCount)
  }

  package static func leaf(of grain: RawSpan) -> Digest {
    grain.isZero ? .zero : Digest(of: grain)
  }

  package static func node(_ left: Digest, _ right: Digest) -> Digest {
    var room = nodeRoom
    return node(left, right, in: &room)
  }

  private static func node(_ left: Digest, _ right: Digest, in room: inout [UInt8]) -> Digest {
    if left == .zero, right == .zero { return .zero }
    left.store(in: &room, at: nodePrefix.count)
    right.store(in: &room, at: nodePrefix.count + Digest.byteCount)
    return Digest(of: room.span.bytes)
  }

  /// The node over one page of nodes (missing ones are zero).
  package static func node(overPage nodes: [Digest]) -> Digest {
    precondition(nodes.count == nodesPerPage)
    var (nodes, room) = (nodes, nodeRoom)
    var count = nodesPerPage
    while count > 1 {
      count /= 2
      for index in 0..<count { nodes[index] = node(nodes[2 * index], nodes[2 * index + 1], in: &room) }
    }
    return nodes[0]
  }

  /// The root, from the one page of the highest stored level; any for an image of no bytes.
  package func root(topPage: [Digest]) -> Digest {
    var bytes = Self.rootPrefix
    for number in [byteCount, UInt64(Self.grainByteCount)] {
      bytes += (0..<8).map { UInt8(truncatingIfNeeded: number >> (56 - 8 * $0)) }
    }
    bytes += (storedLevels.isEmpty ? .zero : Self.node(overPage: topPage)).bytes
    return Digest(of: bytes.span.bytes)
  }

  private static let nodePrefix = Array("cobweb node 1\0".utf8)
  /// What is hashed for a node: its prefix, and room for two more.
  private static let nodeRoom = nodePrefix + [UInt8](repeating: 0, count: 2 * Digest.byteCount)
  private static let rootPrefix = Array("cobweb root 1\0".utf8)
}
