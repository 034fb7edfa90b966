import Bitmaps
import BlockCore
import BlockTesting
import Bytes
import Testing

/// The bits of bitmaps, written down and read again.
struct PortableBitmapTests {
  private static let generation = Array(UInt8(1)...16)

  private func written(_ bits: DirtyBitmap, limit: Int = 64 << 20) -> [UInt8]? {
    PortableBitmap(bits, generation: Self.generation).encoded(atMost: limit)
  }

  private func flaw(_ bytes: [UInt8]) -> PortableBitmap.Flaw? {
    do throws(PortableBitmap.Flaw) {
      _ = try PortableBitmap(decoding: bytes)
      return nil
    } catch {
      return error
    }
  }

  /// The same bytes with a digest that is right.
  private func sealed(_ bytes: [UInt8]) -> [UInt8] {
    let content = Array(bytes.dropLast(Digest.byteCount))
    return content + Digest(of: content.span.bytes).bytes
  }

  @Test(arguments: 0..<12 as Range<UInt64>) func anyBitmapIsReadAsItWasWritten(seed: UInt64) throws {
    var random = SeededRandom(seed: seed)
    let granules = [1, 7, 65535, 65536, 65537, 150_000, 262_144][random.below(7)]
    var bits = DirtyBitmap(byteCount: UInt64(granules) * 4096 - UInt64(random.below(4096)), granularity: 4096)
    let longest = [1, 3, 5000, 100_000][random.below(4)]
    for _ in 0..<random.below(6000) / longest + random.below(3) {
      let range = ByteRange(offset: random.next() % bits.byteCount, length: UInt64(1 + random.below(longest)) * 4096)
      if random.oneIn(4) { bits.clear(range) } else { bits.set(range) }
    }
    if random.oneIn(5) { bits.setAll() }
    let read = try PortableBitmap(decoding: try #require(written(bits)))
    #expect(read.bits == bits && read.generation == Self.generation, "\(random)")
  }

  @Test func alternatingGranulesTakeABitEach() throws {
    var bits = DirtyBitmap(byteCount: 131072 * 512, granularity: 512)
    for granule in stride(from: 0 as UInt64, to: 131072, by: 2) {
      bits.set(ByteRange(offset: granule * 512, length: 1))
    }
    let bytes = try #require(written(bits))
    #expect(bytes.count == 48 + 2 * (8 + 8192) + 32)
    #expect(try PortableBitmap(decoding: bytes).bits == bits)
  }

  @Test func aFewBitsOf16TiBAreAFewBytes() throws {
    var bits = DirtyBitmap(byteCount: 16 << 40, granularity: 4096)
    for offset in [0, 1 << 40, (16 << 40) - 1] as [UInt64] { bits.set(ByteRange(offset: offset, length: 1)) }
    let bytes = try #require(written(bits))
    #expect(bytes.count == 48 + 3 * (8 + 2) + 32)
    #expect(try PortableBitmap(decoding: bytes).bits == bits)
    bits.setAll()
    #expect(try #require(written(bits)).count == 48 + 65536 * 8 + 32)
  }

  @Test func bitsBeyondTheLimitArentWritten() throws {
    var bits = DirtyBitmap(byteCount: 131072 * 512, granularity: 512)
    for granule in stride(from: 0 as UInt64, to: 131072, by: 2) {
      bits.set(ByteRange(offset: granule * 512, length: 1))
    }
    let count = try #require(written(bits)).count
    #expect(written(bits, limit: count)?.count == count && written(bits, limit: count - 1) == nil)
  }

  @Test func theFormatIsTheOneThatIsDocumented() throws {
    var bits = DirtyBitmap(byteCount: 65536 * 512 + 1000, granularity: 512)
    bits.set(ByteRange(offset: 512, length: 1024))
    bits.set(ByteRange(offset: 65536 * 512, length: 1000))
    let head = Array("CBWBITS\n".utf8) + [0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 2, 0, 3, 0xE8, 0, 0, 0, 0, 0, 0, 2, 0]
    let blocks: [UInt8] = [0, 0, 0, 0, 0, 0, 0, 2, 0, 1, 0, 2] + [0, 0, 0, 1, 0, 0, 0, 2]
    let content = head + Self.generation + blocks
    #expect(written(bits) == content + Digest(of: content.span.bytes).bytes)
  }

  @Test func whatIsCutOffOrAlteredAtAnyByteIsRefused() throws {
    var bits = DirtyBitmap(byteCount: 65536 * 512 + 1000, granularity: 512)
    for offset in [512, 5120, 65536 * 512] as [UInt64] { bits.set(ByteRange(offset: offset, length: 1)) }
    let bytes = try #require(written(bits))
    for count in 0..<bytes.count { #expect(flaw(Array(bytes.prefix(count))) != nil, "cut off at \(count)") }
    #expect(flaw(bytes + [0]) == .digest)
    for index in bytes.indices {
      for bit in [0, 7] {
        var altered = bytes
        altered[index] ^= 1 << UInt8(bit)
        #expect(flaw(altered) != nil, "bit \(bit) of byte \(index)")
      }
    }
  }

  /// A made-up body has a digest that is right: everything else is checked too, and nothing traps.
  @Test(arguments: 0..<20 as Range<UInt64>) func whatContradictsItselfIsRefused(seed: UInt64) throws {
    var random = SeededRandom(seed: seed)
    var bits = DirtyBitmap(byteCount: 3 * 65536 * 512 + 1000, granularity: 512)
    for _ in 0..<20 { bits.set(ByteRange(offset: random.next() % bits.byteCount, length: UInt64(random.below(9000)))) }
    for granule in stride(from: 0 as UInt64, to: 65536, by: 3) { bits.set(ByteRange(offset: granule * 512, length: 1)) }
    let bytes = try #require(written(bits))
    for _ in 0..<300 {
      var altered = bytes
      for _ in 0...random.below(3) {
        let index = random.oneIn(2) ? 8 + random.below(50) : random.below(bytes.count - Digest.byteCount)
        altered[index] = random.oneIn(3) ? 0xFF : UInt8(truncatingIfNeeded: random.next())
      }
      if random.oneIn(3) { altered.removeLast(random.below(bytes.count - 80)) }
      altered = sealed(altered)
      guard let read = try? PortableBitmap(decoding: altered) else { continue }
      // Another bitmap, then: there is one way to write it down.
      #expect(read.encoded(atMost: .max) == altered, "\(random)")
    }
  }

  @Test func eachContradictionIsNamed() throws {
    var bits = DirtyBitmap(byteCount: 100 * 512, granularity: 512)
    bits.set(ByteRange(offset: 512, length: 1024))
    let bytes = try #require(written(bits))
    func altered(_ change: (inout [UInt8]) -> Void) -> PortableBitmap.Flaw? {
      var bytes = bytes
      change(&bytes)
      return flaw(sealed(bytes))
    }
    #expect(flaw(Array("{}".utf8)) == .foreign && flaw([]) == .foreign)
    #expect(altered { $0[11] = 2 } == .version(2))
    #expect(altered { $0[15] = 2 } == .length)
    #expect(altered { $0[15] = 0 } == .length)
    #expect(altered { $0[31] = 1 } == .contradiction("a disk of 51200 bytes has no bitmap with a granularity of 513"))
    #expect(altered { $0[51] = 1 } == .contradiction("block 1 is beyond the disk or out of order"))
    #expect(altered { $0[55] = 0 } == .contradiction("block 0 has 100 granules, and 0 of them are dirty"))
    #expect(altered { $0[55] = 101 } == .contradiction("block 0 has 100 granules, and 101 of them are dirty"))
    #expect(altered { $0[59] = 1 } == .contradiction("a granule of block 0 is beyond the disk or out of order"))
    #expect(altered { $0[59] = 100 } == .contradiction("a granule of block 0 is beyond the disk or out of order"))
  }
}
