import Buffers
import Testing

@Suite struct SpansTests {
  @Test(arguments: [1, 2, 7, 8, 9, 63, 64, 65, 4096])
  func oneByteAnywhereMakesTheWholeNotZero(count: Int) {
    var bytes = [UInt8](repeating: 0, count: count)
    #expect(isZero(bytes))
    for index in Set([0, 1, count / 2, count - 2, count - 1]) where bytes.indices.contains(index) {
      bytes[index] = 0x80
      #expect(!isZero(bytes), "byte \(index) of \(count)")
      bytes[index] = 0
    }
  }

  @Test(arguments: [0, 1, 7, 8, 9, 255, 256, 257, 264, 265, 520, 4096])
  func zeroesAreCountedUpToTheFirstByteThatIsNot(count: Int) {
    var bytes = [UInt8](repeating: 0, count: count)
    let all = bytes.span.bytes.leadingZeroByteCount
    #expect(all == count)
    for index in Set([0, 1, 7, 8, 9, 255, 256, count / 2, count - 1]) where bytes.indices.contains(index) {
      bytes[index] = 0x80
      let found = bytes.span.bytes.leadingZeroByteCount
      #expect(found == index, "byte \(index) of \(count)")
      bytes[index] = 0
    }
  }

  @Test func equalBytesThatAreNotZeroAreNotZero() {
    #expect(!isZero([UInt8](repeating: 1, count: 64)))
  }

  @Test func noBytesAreZero() {
    #expect(isZero([]))
    #expect(isZero([1, 1, 1, 1], 2..<2))
  }

  @Test func onlyTheBytesOfASubspanCount() {
    let bytes: [UInt8] = [9, 0, 0, 0, 9]
    #expect(isZero(bytes, 1..<4))
    #expect(!isZero(bytes, 1..<5))
  }

  @Test func copyChangesJustItsPlace() {
    var target = [UInt8](repeating: 1, count: 8)
    let source: [UInt8] = [5, 6, 7]
    change(&target) { bytes in bytes.copy(from: source.span.bytes, at: 5) }
    #expect(target == [1, 1, 1, 1, 1, 5, 6, 7])
    change(&target) { bytes in bytes.copy(from: source.span.bytes) }
    #expect(target == [5, 6, 7, 1, 1, 5, 6, 7])
    change(&target) { bytes in bytes.copy(from: source.span.bytes.extracting(0..<0), at: 8) }
    #expect(target == [5, 6, 7, 1, 1, 5, 6, 7])
  }

  @Test func zeroChangesJustItsRange() {
    var target = [UInt8](repeating: 1, count: 6)
    change(&target) { bytes in bytes.zero(2..<4) }
    #expect(target == [1, 1, 0, 0, 1, 1])
    change(&target) { bytes in bytes.zero(6..<6) }
    #expect(target == [1, 1, 0, 0, 1, 1])
    change(&target) { bytes in bytes.zero() }
    #expect(target == [0, 0, 0, 0, 0, 0])
  }

  @Test func partChangesTheWhole() {
    var target = [UInt8](repeating: 1, count: 6)
    change(&target) { bytes in
      var part = bytes.part(1..<3)
      part.zero()
    }
    #expect(target == [1, 0, 0, 1, 1, 1])
  }
}

private func change(_ array: inout [UInt8], _ body: (inout MutableRawSpan) -> Void) {
  var span = array.mutableSpan
  var bytes = span.mutableBytes
  body(&bytes)
}

// A span can't enter `#expect`.
private func isZero(_ bytes: [UInt8], _ range: Range<Int>? = nil) -> Bool {
  bytes.span.bytes.extracting(range ?? bytes.indices).isZero
}
