import BlockCore

/// Which parts of a disk changed: a bit for each granule, which is a stretch as long as the granularity.
///
/// A value: a copy shares its pages until one of the two changes. Pages stand for 65,536 granules each. One that is all
/// clear or all set takes nothing beside its place in the list of pages; one with few granules set two bytes for each of
/// them, twice that while it grows; one with many 8 KiB, which is a bit for each. Setting what is set already looks it up
/// and allocates nothing. Finding the next dirty granule passes 65,536 clear ones at a step.
package struct DirtyBitmap: Hashable, Sendable {
  /// 512 bytes to 2 GiB, as qcow2 has them.
  package static let granularities: ClosedRange<UInt64> = 512...(1 << 31)
  /// As many as qcow2 stores: 512 MiB of bits.
  package static let maximumGranuleCount: UInt64 = 1 << 32

  /// Bytes of the disk.
  package let byteCount: UInt64
  /// Bytes of a granule, a power of two. The last one of a disk may be short.
  package let granularity: UInt64
  private(set) var pages: [GranulePage]
  package private(set) var dirtyGranuleCount: UInt64 = 0

  /// Nothing is dirty.
  /// - Precondition: ``isPossible(granularity:byteCount:)``.
  package init(byteCount: UInt64, granularity: UInt64) {
    precondition(Self.isPossible(granularity: granularity, byteCount: byteCount))
    self.byteCount = byteCount
    self.granularity = granularity
    let granules = Self.granuleCount(byteCount, granularity)
    let pageSize = UInt64(GranulePage.bitCount)
    pages = Array(repeating: GranulePage(), count: Int((granules + pageSize - 1) / pageSize))
  }

  package static func isPossible(granularity: UInt64, byteCount: UInt64) -> Bool {
    granularities.contains(granularity) && granularity & (granularity - 1) == 0
      && granuleCount(byteCount, granularity) <= maximumGranuleCount
  }

  private static func granuleCount(_ byteCount: UInt64, _ granularity: UInt64) -> UInt64 {
    byteCount / granularity + (byteCount % granularity == 0 ? 0 : 1)
  }

  /// Bytes that one takes at least, clean as it may be.
  package static func leastByteCount(_ byteCount: UInt64, granularity: UInt64) -> UInt64 {
    let pages = granuleCount(byteCount, granularity) / UInt64(GranulePage.bitCount) + 1
    return pages * UInt64(MemoryLayout<GranulePage>.stride)
  }

  package var granuleCount: UInt64 { Self.granuleCount(byteCount, granularity) }
  package var isEmpty: Bool { dirtyGranuleCount == 0 }

  /// Bytes of the disk that are dirty.
  package var dirtyByteCount: UInt64 {
    let count = granuleCount
    guard count > 0, byteCount % granularity != 0, containsGranule(count - 1) else {
      return dirtyGranuleCount * granularity
    }
    return (dirtyGranuleCount - 1) * granularity + byteCount % granularity
  }

  // MARK: Questions

  /// Whether the granule is dirty that has the byte.
  package func contains(_ offset: UInt64) -> Bool { offset < byteCount && containsGranule(offset / granularity) }

  private func containsGranule(_ granule: UInt64) -> Bool {
    pages[Int(granule >> 16)].contains(Int(granule & 0xFFFF))
  }

  /// Whether every granule is dirty that has a byte of the range. True of an empty one.
  package func containsAll(of range: ByteRange) -> Bool {
    guard !range.isEmpty else { return true }
    guard range.end <= byteCount else { return false }
    let end = (range.end - 1) / granularity + 1
    return next(isSet: false, from: range.offset / granularity, before: end) == nil
  }

  /// The first dirty stretch at or after `offset`, from there on; nil if there is none. It is as long as it goes on, up to
  /// `limit` or the disk's end: nothing behind these is looked at.
  package func nextDirty(from offset: UInt64, before limit: UInt64 = .max) -> ByteRange? {
    let limit = min(limit, byteCount)
    guard offset < limit else { return nil }
    let last = (limit - 1) / granularity + 1
    guard let first = next(isSet: true, from: offset / granularity, before: last) else { return nil }
    let end = next(isSet: false, from: first, before: last) ?? last
    let start = max(offset, first * granularity)
    return ByteRange(start..<min(limit, end * granularity))
  }

  /// Everything that is dirty within a range, in order, neighbours joined.
  package func dirtyRanges(in range: ByteRange) -> some Sequence<ByteRange> {
    sequence(state: range.offset) { offset in
      guard let dirty = nextDirty(from: offset, before: range.end) else { return nil }
      offset = dirty.end
      return dirty
    }
  }

  /// Everything that is dirty, in order, neighbours joined.
  package var dirtyRanges: some Sequence<ByteRange> { dirtyRanges(in: ByteRange(0..<byteCount)) }

  /// The first granule like that, before `limit` or the disk's end.
  private func next(isSet: Bool, from granule: UInt64, before limit: UInt64 = .max) -> UInt64? {
    let limit = min(limit, granuleCount)
    var (page, bit) = (Int(granule >> 16), Int(granule & 0xFFFF))
    while UInt64(page) << 16 < limit {
      if let found = pages[page].next(isSet: isSet, from: bit) {
        let granule = UInt64(page) << 16 | UInt64(found)
        return granule < limit ? granule : nil
      }
      (page, bit) = (page + 1, 0)
    }
    return nil
  }

  /// Whether everything is dirty here that is dirty there.
  package func isSuperset(of other: DirtyBitmap) -> Bool { other.dirtyRanges.allSatisfy { containsAll(of: $0) } }

  // MARK: Changes

  /// Makes dirty every granule that has a byte of the range; what lies beyond the disk is left out.
  package mutating func set(_ range: ByteRange) {
    let end = min(range.end, byteCount)
    guard range.offset < end else { return }
    change(range.offset / granularity..<(end - 1) / granularity + 1) { page, bits in page.insert(bits) }
  }

  /// Makes clean every granule that lies within the range. The last one does if the range reaches the disk's end.
  package mutating func clear(_ range: ByteRange) {
    let first = range.offset / granularity + (range.offset % granularity == 0 ? 0 : 1)
    let end = range.end >= byteCount ? granuleCount : range.end / granularity
    guard first < end else { return }
    change(first..<end) { page, bits in page.remove(bits) }
  }

  package mutating func setAll() { set(ByteRange(offset: 0, length: byteCount)) }
  package mutating func clearAll() { self = DirtyBitmap(byteCount: byteCount, granularity: granularity) }

  /// - Parameter granules: counted from the page's first one.
  mutating func insert(_ granules: Range<Int>, inPage page: UInt64) {
    let start = page << 16
    change(start + UInt64(granules.lowerBound)..<start + UInt64(granules.upperBound)) { $0.insert($1) }
  }

  private mutating func change(_ granules: Range<UInt64>, _ body: (inout GranulePage, Range<Int>) -> Void) {
    var granule = granules.lowerBound
    while granule < granules.upperBound {
      let index = Int(granule >> 16)
      let start = UInt64(index) << 16
      let end = min(granules.upperBound, start + UInt64(GranulePage.bitCount))
      let before = pages[index].count
      body(&pages[index], Int(granule - start)..<Int(end - start))
      dirtyGranuleCount = dirtyGranuleCount &+ UInt64(pages[index].count) &- UInt64(before)
      granule = end
    }
  }

  /// Makes dirty what is dirty there: whole granules of this one, whatever the other's granularity and size.
  package mutating func formUnion(_ other: DirtyBitmap) {
    guard other.granularity == granularity, other.byteCount == byteCount else {
      for range in other.dirtyRanges { set(range) }
      return
    }
    dirtyGranuleCount = 0
    for index in pages.indices {
      pages[index].formUnion(other.pages[index])
      dirtyGranuleCount += UInt64(pages[index].count)
    }
  }

  /// The same for a disk of another size.
  /// - Parameter isGrowthDirty: whether what the disk has gained is dirty, from the old end on.
  package func resized(to byteCount: UInt64, isGrowthDirty: Bool) -> DirtyBitmap {
    var resized = DirtyBitmap(byteCount: byteCount, granularity: granularity)
    for range in dirtyRanges { resized.set(range) }
    if isGrowthDirty, byteCount > self.byteCount { resized.set(ByteRange(self.byteCount..<byteCount)) }
    return resized
  }
}

extension GranulePage: Hashable {
  func hash(into hasher: inout Hasher) { hasher.combine(count) }
}

// MARK: As bits

/// The form in which qcow2 stores a bitmap (qcow2.txt, "Bitmap data"): granule n is bit n % 8 of byte n / 8, the lowest
/// first. It is cut into pieces, which clusters hold.
extension DirtyBitmap {
  /// What all bits of a piece are; its bytes tell where they aren't the same.
  package enum Piece: Hashable, Sendable {
    case clear, set, mixed
  }

  /// The bits from byte `position` on, as many as `bytes` has room for. Bits behind the disk's last granule are clear.
  /// - Parameters:
  ///   - position: a multiple of 8.
  ///   - bytes: as long as a multiple of 8; filled where the answer is `mixed`.
  package func bits(fromByte position: UInt64, into bytes: inout MutableRawSpan) -> Piece {
    let granules = position * 8..<min(granuleCount, (position + UInt64(bytes.byteCount)) * 8)
    guard !granules.isEmpty, let first = next(isSet: true, from: granules.lowerBound, before: granules.upperBound)
    else { return .clear }
    if first == granules.lowerBound, next(isSet: false, from: first, before: granules.upperBound) == nil { return .set }
    for offset in stride(from: 0, to: bytes.byteCount, by: 8) {
      let granule = (position + UInt64(offset)) * 8
      let word = granule < granuleCount ? pages[Int(granule >> 16)].word(Int(granule & 0xFFFF) / 64) : 0
      bytes.storeBytes(of: word.littleEndian, toByteOffset: offset, as: UInt64.self)
    }
    return .mixed
  }

  /// Makes dirty the granules whose bits are set in `bytes`, which stand from byte `position` on. Bits behind the disk's
  /// last granule are ignored.
  package mutating func set(bits bytes: RawSpan, fromByte position: UInt64) {
    let pageByteCount = UInt64(GranulePage.bitCount / 8)
    var offset = 0
    while offset < bytes.byteCount {
      let byte = position + UInt64(offset)
      let (page, start) = (byte / pageByteCount, byte % pageByteCount)
      guard page < UInt64(pages.count) else { return }
      let length = min(bytes.byteCount - offset, Int(pageByteCount - start))
      let end = min(UInt64(GranulePage.bitCount), granuleCount - (page << 16))
      let before = pages[Int(page)].count
      pages[Int(page)].insert(
        bytes.extracting(offset..<offset + length), fromByte: Int(start), before: Int(end))
      dirtyGranuleCount += UInt64(pages[Int(page)].count - before)
      offset += length
    }
  }
}
