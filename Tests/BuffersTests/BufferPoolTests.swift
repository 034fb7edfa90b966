import Buffers
import Testing

@Suite struct BufferPoolTests {
  @Test(arguments: [0, 1, 4095, 4096, 4097, 8192, 12_288, 12_289, 1 << 20, (32 << 20) + 1])
  func bufferIsPageAlignedAndHoldsWhatWasAskedFor(byteCount: Int) {
    let pool = BufferPool()
    let buffer = pool.take(byteCount)
    let (address, size) = (address(of: buffer), buffer.byteCount)
    #expect(address % UInt(pageByteCount) == 0)
    #expect(size >= byteCount)
    #expect(size % pageByteCount == 0)
    #expect(pool.lentByteCount == size)
  }

  @Test func bufferThatEndsIsReused() {
    let pool = BufferPool()
    let first = takeAndDrop(pool, 10_000)
    #expect(takeAndDrop(pool, 16_384) == first)
  }

  @Test func twoOwnersNeverShareMemory() {
    let pool = BufferPool()
    _ = takeAndDrop(pool, 4096)
    var first = pool.take(4096)
    var second = pool.take(4096)
    fill(&first, 1)
    fill(&second, 2)
    let (ones, twos) = (holdsOnly(1, first), holdsOnly(2, second))
    #expect(ones && twos)
  }

  @Test func nothingIsLentAfterAllOwnersEnded() {
    let pool = BufferPool(maximumCachedByteCount: 64 << 10)
    for count in [1, 4096, 5000, 100_000, 40 << 20] { _ = takeAndDrop(pool, count) }
    #expect(pool.lentByteCount == 0)
  }

  @Test func returnedMemoryBeyondTheCapIsNotKept() {
    let pool = BufferPool(maximumCachedByteCount: 40 << 10)
    dropThree(pool, 16 << 10)
    #expect(pool.cachedByteCount == 32 << 10)
    _ = takeAndDrop(pool, 8 << 10)
    #expect(pool.cachedByteCount == 40 << 10)
    let none = BufferPool(maximumCachedByteCount: 0)
    dropThree(none, 4096)
    #expect(none.cachedByteCount == 0)
  }

  @Test func buffersLargerThanTheLargestShelfAreNotKept() {
    let pool = BufferPool(maximumCachedByteCount: 1 << 30)
    _ = takeAndDrop(pool, (32 << 20) + 1)
    #expect(pool.cachedByteCount == 0)
    _ = takeAndDrop(pool, 32 << 20)
    #expect(pool.cachedByteCount == 32 << 20)
  }

  @Test(arguments: [4096, 64 << 10, 256 << 10])
  func whatIsStockedIsReadyForTheNextTakers(byteCount: Int) {
    let pool = BufferPool(maximumCachedByteCount: 4 << 20)
    pool.stock(byteCount, count: 5)
    pool.stock(byteCount, count: 3)
    #expect(pool.stockCount(of: byteCount) == 5 && pool.cachedByteCount == 5 * byteCount)
    var first = pool.take(byteCount)
    var second = pool.take(byteCount)
    fill(&first, 1)
    fill(&second, 2)
    let (ones, twos) = (holdsOnly(1, first), holdsOnly(2, second))
    #expect(ones && twos && pool.stockCount(of: byteCount) == 3)
  }

  @Test func noMoreIsStockedThanThePoolKeeps() {
    let pool = BufferPool(maximumCachedByteCount: 1 << 20)
    pool.stock(64 << 10, count: 100)
    #expect(pool.stockCount(of: 64 << 10) == 16)
    pool.stock(4096, count: 1)
    #expect(pool.cachedByteCount == 1 << 20)
  }

  @Test func bufferOutlivesItsPoolsLastOtherReference() {
    var pool: BufferPool? = BufferPool()
    guard var buffer = pool?.take(4096) else { return }
    pool = nil
    fill(&buffer, 9)
    let isIntact = holdsOnly(9, buffer)
    #expect(isIntact)
  }

  @Test func bufferOutsideAnyPoolIsZero() {
    let buffer = PageBuffer(byteCount: 5000)
    let (size, isZero) = (buffer.byteCount, buffer.bytes.isZero)
    #expect(size == 8192)
    #expect(isZero)
  }

  @Test func anyThreadMayTakeAndGiveBack() async {
    let pool = BufferPool(maximumCachedByteCount: 1 << 20)
    await withTaskGroup(of: Bool.self) { group in
      for worker in 1...4 {
        group.addTask {
          (0..<500).allSatisfy { round in
            var buffer = pool.take(4096 << (round % 4))
            fill(&buffer, UInt8(worker))
            return buffer.bytes.withUnsafeBytes { $0.first == UInt8(worker) && $0.last == UInt8(worker) }
          }
        }
      }
      for await intact in group { #expect(intact) }
    }
    #expect(pool.lentByteCount == 0)
  }
}

private func address(of buffer: borrowing PageBuffer) -> UInt {
  buffer.bytes.withUnsafeBytes { UInt(bitPattern: $0.baseAddress) }
}

private func takeAndDrop(_ pool: BufferPool, _ byteCount: Int) -> UInt {
  let buffer = pool.take(byteCount)
  return address(of: buffer)
}

private func holdsOnly(_ byte: UInt8, _ buffer: borrowing PageBuffer) -> Bool {
  buffer.bytes.withUnsafeBytes { $0.allSatisfy { $0 == byte } }
}

private func dropThree(_ pool: BufferPool, _ byteCount: Int) {
  let first = pool.take(byteCount)
  let second = pool.take(byteCount)
  let third = pool.take(byteCount)
  _ = (first.byteCount, second.byteCount, third.byteCount)
}

private func fill(_ buffer: inout PageBuffer, _ byte: UInt8) {
  var bytes = buffer.mutableBytes
  bytes.withUnsafeMutableBytes { memory in
    for index in memory.indices { memory[index] = byte }
  }
}
