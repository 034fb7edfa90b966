import BlockCore
import Foundation
import Testing

@Suite struct ByteRangeTests {
  @Test func overlapNeedsACommonByte() {
    let range = ByteRange(10..<20)
    for other in [0..<11, 19..<30, 12..<13, 10..<20, 0..<99] as [Range<UInt64>] {
      #expect(range.overlaps(ByteRange(other)), "\(other)")
      #expect(ByteRange(other).overlaps(range), "\(other)")
    }
    for other in [0..<10, 20..<30, 15..<15, 10..<10] as [Range<UInt64>] {
      #expect(!range.overlaps(ByteRange(other)), "\(other)")
      #expect(!ByteRange(other).overlaps(range), "\(other)")
    }
  }

  @Test func overlapAndIntersectionAgree() {
    for start in 0..<6 as Range<UInt64> {
      for end in start..<7 {
        for otherStart in 0..<6 as Range<UInt64> {
          for otherEnd in otherStart..<7 {
            let (range, other) = (ByteRange(start..<end), ByteRange(otherStart..<otherEnd))
            let common = Set(range.range).intersection(other.range)
            #expect(range.overlaps(other) == !common.isEmpty)
            #expect(Set(range.intersection(other)?.range ?? 0..<0) == common)
          }
        }
      }
    }
  }

  @Test func containsItsPartsOnly() {
    let range = ByteRange(10..<20)
    #expect(range.contains(range))
    #expect(range.contains(ByteRange(12..<13)))
    #expect(!range.contains(ByteRange(9..<12)))
    #expect(!range.contains(ByteRange(19..<21)))
  }

  @Test func alignedCoversTheRangeWithWholeUnits() {
    #expect(ByteRange(5..<9).aligned(to: 4) == ByteRange(4..<12))
    #expect(ByteRange(4..<8).aligned(to: 4) == ByteRange(4..<8))
    #expect(ByteRange(5..<5).aligned(to: 4).isEmpty)
    let last = UInt64.max / 4096 * 4096
    #expect(ByteRange(last - 1..<last).aligned(to: 4096) == ByteRange(last - 4096..<last))
  }

  @Test func rangeAtTheEndOfTheNumbersIsAllowed() {
    let range = ByteRange(offset: .max - 1, length: 1)
    #expect(range.end == .max)
  }

  @Test func rangeSurvivesCoding() throws {
    let range = ByteRange(offset: 7, length: 1 << 60)
    let coded = try JSONEncoder().encode(range)
    #expect(try JSONDecoder().decode(ByteRange.self, from: coded) == range)
  }

  @Test func codedRangeThatOverflowsIsRefused() {
    let text = #"{"offset": 18446744073709551615, "length": 2}"#
    #expect(throws: DecodingError.self) { try JSONDecoder().decode(ByteRange.self, from: Data(text.utf8)) }
  }
}
