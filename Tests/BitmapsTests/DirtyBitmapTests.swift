import Bitmaps
import BlockCore
import BlockTesting
import Testing

/// The bitmap beside a list of truths.
struct DirtyBitmapTests {
  private struct Model {
    var bitmap: DirtyBitmap
    var bits: [Bool]

    init(byteCount: UInt64, granularity: UInt64) {
      bitmap = DirtyBitmap(byteCount: byteCount, granularity: granularity)
      bits = Array(repeating: false, count: Int(bitmap.granuleCount))
    }

    func granules(_ range: ByteRange, isOutward: Bool) -> Range<Int> {
      let (size, end) = (Int(bitmap.granularity), Int(min(range.end, bitmap.byteCount)))
      guard Int(range.offset) < end else { return 0..<0 }
      if isOutward { return Int(range.offset) / size..<(end - 1) / size + 1 }
      let first = (Int(range.offset) + size - 1) / size
      let last = range.end >= bitmap.byteCount ? bits.count : end / size
      return first..<max(first, last)
    }

    mutating func change(_ random: inout SeededRandom) {
      let offset = random.below(Int(bitmap.byteCount) + 1000)
      let longest = random.oneIn(3) ? Int(bitmap.byteCount) : Int(bitmap.granularity) * 5
      let range = ByteRange(offset: UInt64(offset), length: UInt64(random.below(longest)))
      if random.oneIn(3) {
        for granule in granules(range, isOutward: false) { bits[granule] = false }
        bitmap.clear(range)
      } else {
        if !range.isEmpty { for granule in granules(range, isOutward: true) { bits[granule] = true } }
        bitmap.set(range)
      }
    }

    var ranges: [ByteRange] {
      var (ranges, granule) = ([ByteRange](), 0)
      while let first = bits[granule...].firstIndex(of: true) {
        let end = bits[first...].firstIndex(of: false) ?? bits.count
        ranges.append(
          ByteRange(
            UInt64(first) * bitmap.granularity..<min(bitmap.byteCount, UInt64(end) * bitmap.granularity)))
        granule = end
      }
      return ranges
    }

    func expectSame(_ random: SeededRandom) {
      #expect(Array(bitmap.dirtyRanges) == ranges, "\(random)")
      #expect(bitmap.dirtyGranuleCount == UInt64(bits.count { $0 }), "\(random)")
      #expect(bitmap.dirtyByteCount == ranges.reduce(0) { $0 + $1.length }, "\(random)")
    }
  }

  /// Sizes within a page, of whole pages, and beyond, with a short last granule or none.
  @Test(arguments: [1, 511, 512, 512 * 65536, 512 * 65537 + 1, 512 * 200_000 + 77], [512, 4096, 65536] as [UInt64])
  func anyChangesGiveTheSameAsAListOfTruths(_ byteCount: Int, granularity: UInt64) {
    for seed in 1...UInt64(TestEffort.rounds(3)) {
      var random = SeededRandom(seed: seed &* 77 &+ UInt64(byteCount) &+ granularity)
      var model = Model(byteCount: UInt64(byteCount), granularity: granularity)
      for step in 0..<60 {
        model.change(&random)
        if step % 6 == 0 { model.expectSame(random) }
      }
      model.expectSame(random)
      let offset = UInt64(random.below(byteCount))
      #expect(model.bitmap.contains(offset) == model.bits[Int(offset / granularity)])
      #expect(!model.bitmap.contains(UInt64(byteCount)))
      let next = model.ranges.first { $0.end > offset }
      #expect(model.bitmap.nextDirty(from: offset)?.end == next?.end, "\(random)")
      #expect(model.bitmap.nextDirty(from: offset)?.offset == next.map { max(offset, $0.offset) }, "\(random)")
      let end = min(UInt64(byteCount), offset + UInt64(1 + random.below(byteCount)))
      let within = model.ranges.compactMap { range in
        range.offset < end && range.end > offset
          ? ByteRange(max(range.offset, offset)..<min(range.end, end)) : nil
      }
      #expect(Array(model.bitmap.dirtyRanges(in: ByteRange(offset..<end))) == within, "\(random)")
      let bits = model.bits[model.granules(ByteRange(offset..<end), isOutward: true)]
      #expect(model.bitmap.containsAll(of: ByteRange(offset..<end)) == bits.allSatisfy { $0 }, "\(random)")
    }
  }

  @Test(arguments: [(512, 512), (512, 4096), (4096, 512), (65536, 4096)] as [(UInt64, UInt64)])
  func aUnionHasWhatEitherHas(_ mine: UInt64, _ its: UInt64) {
    for seed in 1...UInt64(TestEffort.rounds(10)) {
      var random = SeededRandom(seed: seed)
      var (left, right) = (
        Model(byteCount: 9_000_100, granularity: mine), Model(byteCount: 9_000_100, granularity: its)
      )
      for _ in 0..<20 {
        left.change(&random)
        right.change(&random)
      }
      let before = left.bitmap
      left.bitmap.formUnion(right.bitmap)
      for range in right.ranges { for granule in left.granules(range, isOutward: true) { left.bits[granule] = true } }
      left.expectSame(random)
      #expect(left.bitmap.isSuperset(of: before) && left.bitmap.isSuperset(of: right.bitmap), "\(random)")
      #expect(before.isSuperset(of: left.bitmap) == (before.dirtyByteCount == left.bitmap.dirtyByteCount), "\(random)")
    }
  }

  /// As qcow2 stores it, in pieces of any length: what is read back is the same, and pieces of one kind say so.
  @Test(arguments: [64, 512, 65536]) func bitsComeBack(_ pieceByteCount: Int) {
    for seed in 1...UInt64(TestEffort.rounds(5)) {
      var random = SeededRandom(seed: seed)
      var model = Model(byteCount: UInt64(512 * (70_000 + random.below(9)) + random.below(512)), granularity: 512)
      for _ in 0..<random.below(12) { model.change(&random) }
      var back = DirtyBitmap(byteCount: model.bitmap.byteCount, granularity: 512)
      for position in stride(from: 0, to: (model.bits.count + 7) / 8, by: pieceByteCount) {
        var bytes = [UInt8](repeating: 0, count: pieceByteCount)
        var span = bytes.mutableSpan
        var raw = span.mutableBytes
        let piece = model.bitmap.bits(fromByte: UInt64(position), into: &raw)
        let expected = (0..<pieceByteCount).map { byte in
          (0..<8).reduce(UInt8(0)) { result, bit in
            let granule = (position + byte) * 8 + bit
            return granule < model.bits.count && model.bits[granule] ? result | 1 << UInt8(bit) : result
          }
        }
        let here = model.bits[position * 8..<min(model.bits.count, (position + pieceByteCount) * 8)]
        switch piece {
        case .clear: #expect(here.allSatisfy { !$0 }, "\(random)")
        case .set: #expect(here.allSatisfy { $0 }, "\(random)")
        case .mixed: #expect(bytes == expected, "\(random)")
        }
        #expect((piece == .mixed) == (here.contains(true) && here.contains(false)), "\(random)")
        // Whatever stands behind the last granule is ignored.
        var stored = expected
        for granule in max(model.bits.count, position * 8)..<max(model.bits.count, (position + pieceByteCount) * 8)
        where random.oneIn(2) { stored[granule / 8 - position] |= 1 << UInt8(granule % 8) }
        back.set(bits: stored.span.bytes, fromByte: UInt64(position))
      }
      #expect(back == model.bitmap, "\(random)")
    }
  }

  @Test func aDiskThatGrowsOrShrinksKeepsItsBits() {
    var bitmap = DirtyBitmap(byteCount: 1_000_000, granularity: 65536)
    bitmap.set(ByteRange(offset: 70_000, length: 1))
    bitmap.set(ByteRange(offset: 999_999, length: 1))
    let grown = bitmap.resized(to: 3_000_000, isGrowthDirty: true)
    #expect(Array(grown.dirtyRanges) == [ByteRange(65536..<131_072), ByteRange(983_040..<3_000_000)])
    let shrunk = grown.resized(to: 100_000, isGrowthDirty: true)
    #expect(Array(shrunk.dirtyRanges) == [ByteRange(65536..<100_000)] && shrunk.dirtyByteCount == 34_464)
    #expect(bitmap.resized(to: 2_000_000, isGrowthDirty: false).dirtyGranuleCount == 2)
  }

  /// 16 TiB at 64 KiB: what is far off is found at once, and all of it takes no storage when it is set.
  @Test func largeDisksAreNoScan() {
    var bitmap = DirtyBitmap(byteCount: 16 << 40, granularity: 65536)
    bitmap.set(ByteRange(offset: (16 << 40) - 1, length: 1))
    let clock = ContinuousClock()
    var found: ByteRange?
    let time = clock.measure { for _ in 0..<100 { found = bitmap.nextDirty(from: 0) } }
    #expect(found == ByteRange((16 << 40) - 65536..<16 << 40))
    #expect(time < .seconds(2))
    bitmap.setAll()
    #expect(bitmap.dirtyByteCount == 16 << 40)
    bitmap.clear(ByteRange(offset: 1 << 40, length: 65536))
    #expect(Array(bitmap.dirtyRanges).count == 2)
    bitmap.clear(ByteRange(offset: .max - 10, length: 5))
    bitmap.set(ByteRange(offset: .max - 10, length: 5))
    #expect(bitmap.dirtyByteCount == (16 << 40) - 65536)
    #expect(!DirtyBitmap.isPossible(granularity: 512, byteCount: 16 << 40))
    #expect(
      !DirtyBitmap.isPossible(granularity: 1000, byteCount: 1)
        && !DirtyBitmap.isPossible(granularity: 256, byteCount: 1))
  }
}
