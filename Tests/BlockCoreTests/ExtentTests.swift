import BlockCore
import Testing

@Suite struct ExtentTests {
  private func extents(_ parts: (Range<UInt64>, Extent.Status, Int)...) -> [Extent] {
    var extents: [Extent] = []
    for (range, status, depth) in parts {
      extents.appendMerging(Extent(range: ByteRange(range), status: status, depth: depth))
    }
    return extents
  }

  @Test func neighboursThatSayTheSameAreJoined() {
    let joined = extents((0..<4, .zero, 1), (4..<9, .zero, 1), (9..<10, .zero, 1))
    #expect(joined == [Extent(range: ByteRange(0..<10), status: .zero, depth: 1)])
  }

  @Test func neighboursThatDifferStayApart() {
    #expect(extents((0..<4, .zero, 1), (4..<8, [], 1)).count == 2)
    #expect(extents((0..<4, .zero, 1), (4..<8, .zero, 2)).count == 2)
    #expect(extents((0..<4, .zero, 1), (4..<8, [.zero, .hole], 1)).count == 2)
  }

  @Test func extentsWithAGapStayApart() {
    #expect(extents((0..<4, .zero, 1), (5..<8, .zero, 1)).count == 2)
  }

  @Test func emptyExtentsVanish() {
    #expect(extents((4..<4, .zero, 1)).isEmpty)
    #expect(extents((0..<4, .zero, 1), (4..<4, [], 1), (4..<8, .zero, 1)).count == 1)
  }

  @Test func onlyTheZeroFlagPromisesZeroes() {
    let range = ByteRange(0..<1)
    #expect(Extent(range: range, status: [.zero, .hole], depth: 0).readsAsZero)
    #expect(!Extent(range: range, status: .hole, depth: 0).readsAsZero)
  }
}
