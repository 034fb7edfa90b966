import BlockCore
import Bytes

/// The bits of a bitmap outside of any image, as they are exported and imported.
///
/// Numbers are big-endian. A block stands for 65,536 granules; blocks without a dirty granule are left out, so that a few
/// bits of a disk of 16 TiB are a few bytes.
///
///     offset  bytes
///          0      8   magic: "CBWBITS" and a line feed
///          8      4   version: 1
///         12      4   blocks
///         16      8   bytes of the disk
///         24      8   granularity: bytes, a power of two
///         32     16   generation: tells which state of which bitmap the bits were
///         48      …   the blocks, in the order of their numbers
///          …     32   SHA-256 of everything before
///
///     block:      4   number n: its first granule is n · 65,536
///                 4   dirty granules, at least one
///                 …   none, if all of the block's granules on the disk are dirty;
///                     2 each, in order: the granules' numbers within the block, if fewer than 4,096 are dirty;
///                     8,192 otherwise: granule g of the block is bit g % 8 of byte g / 8, the lowest first
///
/// There is one way to write down a bitmap, and the reader takes no other.
package struct PortableBitmap: Hashable, Sendable {
  package static let generationByteCount = 16
  private static let magic: UInt64 = 0x4342_5742_4954_530A
  private static let version: UInt32 = 1
  private static let headByteCount = 48
  private static let blockHeadByteCount = 8
  private static let blockGranuleCount = GranulePage.bitCount
  private static let blockByteCount = blockGranuleCount / 8
  /// From so many on, bits take less than a list.
  private static let fewestAsBits = blockByteCount / 2

  package var bits: DirtyBitmap
  package var generation: [UInt8]

  /// - Precondition: the generation has ``generationByteCount`` bytes.
  package init(_ bits: DirtyBitmap, generation: [UInt8]) {
    precondition(generation.count == Self.generationByteCount)
    self.bits = bits
    self.generation = generation
  }

  /// Why bytes aren't a portable bitmap.
  package enum Flaw: Error, Hashable, Sendable {
    /// They don't begin as one does.
    case foreign
    case version(UInt32)
    /// There are fewer bytes than they say themselves, or more.
    case length
    /// They aren't those that were written.
    case digest
    /// They are whole, and say what can't be.
    case contradiction(String)
  }
}

// MARK: Writing

extension PortableBitmap {
  /// Nil if it would have more than `limit` bytes.
  package func encoded(atMost limit: Int) -> [UInt8]? {
    var bytes: [UInt8] = []
    bytes.append(bigEndian: Self.magic)
    bytes.append(bigEndian: Self.version)
    bytes.append(bigEndian: UInt32(0))
    bytes.append(bigEndian: bits.byteCount)
    bytes.append(bigEndian: bits.granularity)
    bytes += generation
    var blockCount: UInt32 = 0
    for (number, page) in bits.pages.enumerated() where page.count > 0 {
      append(page, number, to: &bytes)
      blockCount += 1
      guard bytes.count <= limit - Digest.byteCount else { return nil }
    }
    withUnsafeBytes(of: blockCount.bigEndian) { bytes.replaceSubrange(12..<16, with: $0) }
    return bytes + Digest(of: bytes.span.bytes).bytes
  }

  private func append(_ page: GranulePage, _ number: Int, to bytes: inout [UInt8]) {
    bytes.append(bigEndian: UInt32(number))
    bytes.append(bigEndian: UInt32(page.count))
    if page.count == Self.granuleCount(of: UInt64(number), in: bits) { return }
    guard page.count < Self.fewestAsBits else {
      for word in 0..<Self.blockByteCount / 8 { bytes.append(bigEndian: page.word(word).byteSwapped) }
      return
    }
    var granule = page.next(isSet: true, from: 0)
    while let found = granule {
      bytes.append(bigEndian: UInt16(found))
      granule = page.next(isSet: true, from: found + 1)
    }
  }

  /// Those on the disk.
  private static func granuleCount(of block: UInt64, in bits: DirtyBitmap) -> Int {
    Int(min(UInt64(blockGranuleCount), bits.granuleCount - block * UInt64(blockGranuleCount)))
  }
}

// MARK: Reading

extension PortableBitmap {
  package init(decoding bytes: [UInt8]) throws(Flaw) {
    let span = bytes.span.bytes
    let end = bytes.count - Digest.byteCount
    guard bytes.count >= 8, span.bigEndian(UInt64.self, at: 0) == Self.magic else { throw .foreign }
    guard end >= Self.headByteCount else { throw .length }
    let version = span.bigEndian(UInt32.self, at: 8)
    guard version == Self.version else { throw .version(version) }
    guard Digest(from: span, at: end) == Digest(of: span.extracting(0..<end)) else { throw .digest }
    let (byteCount, granularity) = (span.bigEndian(UInt64.self, at: 16), span.bigEndian(UInt64.self, at: 24))
    guard DirtyBitmap.isPossible(granularity: granularity, byteCount: byteCount) else {
      throw .contradiction("a disk of \(byteCount) bytes has no bitmap with a granularity of \(granularity)")
    }
    bits = DirtyBitmap(byteCount: byteCount, granularity: granularity)
    generation = Array(bytes[32..<48])
    var offset = Self.headByteCount
    var last: UInt64?
    for _ in 0..<span.bigEndian(UInt32.self, at: 12) {
      let number = try Self.insertBlock(at: &offset, of: span.extracting(0..<end), after: last, into: &bits)
      last = number
    }
    guard offset == end else { throw .length }
  }

  /// - Returns: its number.
  private static func insertBlock(
    at offset: inout Int, of bytes: RawSpan, after last: UInt64?, into bits: inout DirtyBitmap
  ) throws(Flaw) -> UInt64 {
    guard bytes.byteCount - offset >= blockHeadByteCount else { throw .length }
    let number = UInt64(bytes.bigEndian(UInt32.self, at: offset))
    let count = Int(bytes.bigEndian(UInt32.self, at: offset + 4))
    offset += blockHeadByteCount
    guard number * UInt64(blockGranuleCount) < bits.granuleCount, last.map({ $0 < number }) ?? true else {
      throw .contradiction("block \(number) is beyond the disk or out of order")
    }
    let granules = granuleCount(of: number, in: bits)
    guard (1...granules).contains(count) else {
      throw .contradiction("block \(number) has \(granules) granules, and \(count) of them are dirty")
    }
    if count == granules {
      bits.insert(0..<granules, inPage: number)
      return number
    }
    let isListed = count < fewestAsBits
    let length = isListed ? count * 2 : blockByteCount
    guard bytes.byteCount - offset >= length else { throw .length }
    let content = bytes.extracting(offset..<offset + length)
    if isListed {
      try insert(list: content, granules: granules, block: number, into: &bits)
    } else {
      let before = bits.dirtyGranuleCount
      try checkTail(content, granules: granules, ofBlock: number)
      bits.set(bits: content, fromByte: number * UInt64(blockByteCount))
      guard bits.dirtyGranuleCount - before == UInt64(count) else {
        throw .contradiction("block \(number) has other bits than it counts")
      }
    }
    offset += length
    return number
  }

  /// Granules that follow one another are inserted at once.
  private static func insert(
    list: RawSpan, granules: Int, block number: UInt64, into bits: inout DirtyBitmap
  ) throws(Flaw) {
    var run = 0..<0
    for offset in stride(from: 0, to: list.byteCount, by: 2) {
      let granule = Int(list.bigEndian(UInt16.self, at: offset))
      guard offset == 0 || granule >= run.upperBound, granule < granules else {
        throw .contradiction("a granule of block \(number) is beyond the disk or out of order")
      }
      if offset > 0, granule == run.upperBound {
        run = run.lowerBound..<granule + 1
      } else {
        bits.insert(run, inPage: number)
        run = granule..<granule + 1
      }
    }
    bits.insert(run, inPage: number)
  }

  /// No bit is set behind the disk's end.
  private static func checkTail(_ raw: RawSpan, granules: Int, ofBlock number: UInt64) throws(Flaw) {
    for granule in granules..<blockGranuleCount
    where raw.unsafeLoad(fromByteOffset: granule / 8, as: UInt8.self) >> UInt8(granule % 8) & 1 == 1 {
      throw .contradiction("block \(number) has bits beyond the disk")
    }
  }
}
