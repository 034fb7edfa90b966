import BlockCore
import Bytes

/// A disk cut into at most 65,536 regions of one length, the last of which may be short.
package struct Regions: Hashable, Sendable {
  package static let maximumCount = 1 << 16
  /// Regions of a small disk aren't shorter: each costs its first change a wait.
  private static let minimumByteCount: UInt64 = 1 << 20

  /// Bytes of the disk.
  package let byteCount: UInt64
  /// Bytes of a region: a power of two.
  package let regionByteCount: UInt64
  private let shift: UInt64

  package init(byteCount: UInt64) {
    self.byteCount = byteCount
    var length = Self.minimumByteCount
    while (byteCount + (length - 1)) / length > UInt64(Self.maximumCount) { length *= 2 }
    regionByteCount = length
    shift = UInt64(length.trailingZeroBitCount)
  }

  /// Those that have a byte of the range.
  /// - Precondition: the range lies on the disk.
  package func indices(of range: ByteRange) -> Range<Int> {
    guard !range.isEmpty else { return 0..<0 }
    return Int(range.offset >> shift)..<Int((range.end - 1) >> shift) + 1
  }

  package func range(of index: Int) -> ByteRange {
    let start = UInt64(index) << shift
    return ByteRange(start..<min(byteCount, start + regionByteCount))
  }
}

/// Some of a disk's regions: 8 KiB, whatever is in it.
package struct RegionSet: Hashable, Sendable {
  static let byteCount = Regions.maximumCount / 8
  private var words = [UInt64](repeating: 0, count: Regions.maximumCount / 64)

  package init() {}

  package init(_ regions: Range<Int>) { for region in regions { insert(region) } }

  init(decoding bytes: RawSpan) {
    for index in words.indices { words[index] = bytes.bigEndian(at: index * 8) }
  }

  func encode(into bytes: inout [UInt8]) { for word in words { bytes.append(bigEndian: word) } }

  package var isEmpty: Bool { words.allSatisfy { $0 == 0 } }
  package var count: Int { words.reduce(0) { $0 + $1.nonzeroBitCount } }
  /// In order.
  package var indices: [Int] {
    words.indices.flatMap { index in
      words[index] == 0 ? [] : (0..<64).filter { words[index] >> UInt64($0) & 1 == 1 }.map { index * 64 + $0 }
    }
  }

  package func contains(_ region: Int) -> Bool { words[region / 64] >> UInt64(region % 64) & 1 == 1 }
  package mutating func insert(_ region: Int) { words[region / 64] |= 1 << UInt64(region % 64) }
  package mutating func remove(_ region: Int) { words[region / 64] &= ~(1 << UInt64(region % 64)) }

  package mutating func formUnion(_ other: RegionSet) {
    for index in words.indices { words[index] |= other.words[index] }
  }

  package mutating func subtract(_ other: RegionSet) {
    for index in words.indices { words[index] &= ~other.words[index] }
  }
}
