import BlockCore
import BlockTesting
import Testing

@Suite(.timeLimit(.minutes(1))) struct RangeLockTests {
  private let loop = LoopActor()
  private let lock = RangeLock()

  /// Waits, bounded, until what earlier tasks do shows.
  private func until(_ condition: @Sendable (isolated LoopActor) -> Bool) async {
    for _ in 0..<100_000 {
      if await loop.run({ condition($0) }) { return }
      await Task.yield()
    }
    Issue.record("it never came to pass")
  }

  @Test func readersShareARange() async {
    let range = ByteRange(0..<10)
    await loop.run { _ in
      let first = await lock.acquire(range, .shared)
      let second = await lock.acquire(range, .shared)
      #expect(lock.isFree(range, .shared))
      #expect(!lock.isFree(range, .exclusive))
      lock.release(first)
      #expect(!lock.isFree(range, .exclusive))
      lock.release(second)
      #expect(lock.isFree(range, .exclusive))
    }
  }

  @Test func rangesThatDoNotOverlapDoNotWait() async {
    await loop.run { _ in
      let first = await lock.acquire(ByteRange(0..<10), .exclusive)
      let second = await lock.acquire(ByteRange(10..<20), .exclusive)
      #expect(!lock.isFree(ByteRange(9..<10), .shared))
      #expect(lock.isFree(ByteRange(20..<30), .exclusive))
      #expect(lock.isFree(ByteRange(5..<5), .exclusive))
      lock.release(first)
      lock.release(second)
    }
  }

  @Test func holdEndsWhenTheBodyThrows() async {
    await loop.run { _ in
      do throws(BlockError) {
        try await lock.withRange(ByteRange(0..<10), .exclusive) { () async throws(BlockError) in
          throw BlockError(.noSpace, .write)
        }
        Issue.record("the error was lost")
      } catch {
        #expect(error.kind == .noSpace)
      }
      #expect(lock.isFree(ByteRange(0..<10), .exclusive))
    }
  }

  @Test func readerBehindAWaitingWriterWaitsToo() async {
    let range = ByteRange(0..<10)
    let order = Order()
    let hold = await loop.run { _ in await lock.acquire(range, .shared) }
    async let writer: Void = loop.run { _ in
      await lock.withRange(range, .exclusive) { order.add("writer") }
    }
    await until { _ in !lock.isFree(range, .shared) }
    async let reader: Void = loop.run { _ in
      order.add("asked")
      await lock.withRange(range, .shared) { order.add("reader") }
    }
    await until { _ in order.names == ["asked"] }
    await loop.run { _ in lock.release(hold) }
    _ = await (writer, reader)
    #expect(await loop.run { _ in order.names } == ["asked", "writer", "reader"])
  }

  /// A waiter is passed by later requests that it doesn't conflict with.
  @Test func waiterHoldsUpOnlyWhatItConflictsWith() async {
    let hold = await loop.run { _ in await lock.acquire(ByteRange(0..<10), .exclusive) }
    async let waiting: Void = loop.run { _ in
      await lock.withRange(ByteRange(5..<15), .exclusive) {}
    }
    await until { _ in !lock.isFree(ByteRange(14..<15), .shared) }
    await loop.run { _ in
      await lock.withRange(ByteRange(15..<20), .exclusive) {}
      lock.release(hold)
    }
    await waiting
    #expect(await loop.run { _ in lock.isFree(ByteRange(0..<20), .exclusive) })
  }

  @Test func streamOfReadersDoesNotStarveAWriter() async {
    let range = ByteRange(0..<100)
    let order = Order()
    let rounds = 100
    await withTaskGroup { group in
      for _ in 0..<4 {
        group.addTask {
          await loop.run { _ in
            for _ in 0..<rounds {
              let hold = await lock.acquire(range, .shared)
              order.add("reader")
              await Task.yield()
              lock.release(hold)
            }
          }
        }
      }
      group.addTask {
        await until { _ in order.names.count > 8 }
        await loop.run { _ in
          let before = order.names.count
          await lock.withRange(range, .exclusive) {
            // Each reader may have been granted at most once more after the writer asked: none, by fairness.
            #expect(order.names.count == before)
          }
          order.add("writer")
        }
      }
    }
    #expect(await loop.run { _ in order.names.count } == 4 * rounds + 1)
  }

  @Test(arguments: 1...UInt64(TestEffort.rounds(3)))
  func seededStressNeverBreaksExclusion(seed: UInt64) async {
    let cells = Cells(count: 64)
    await withTaskGroup { group in
      for task in 0..<16 {
        group.addTask {
          await loop.run { _ in
            var random = SeededRandom(seed: seed &* 100 &+ UInt64(task))
            for _ in 0..<100 {
              let range = ByteRange(random.range(within: 64, alignment: 1, maximum: 24, near: 8))
              let mode: RangeLock.Mode = random.oneIn(2) ? .shared : .exclusive
              await lock.withRange(range, mode) {
                #expect(cells.enter(range, mode), "\(random)")
                for _ in 0..<random.below(4) { await Task.yield() }
                cells.leave(range, mode)
              }
            }
          }
        }
      }
    }
    #expect(await loop.run { _ in lock.isFree(ByteRange(0..<64), .exclusive) })
  }
}

/// What happened, in order; confined to the test's loop.
private final class Order: @unchecked Sendable {
  private(set) var names: [String] = []
  func add(_ name: String) { names.append(name) }
}

/// Who is inside each byte; confined to the test's loop.
private final class Cells: @unchecked Sendable {
  private var readers: [Int]
  private var writers: [Int]

  init(count: Int) {
    readers = Array(repeating: 0, count: count)
    writers = readers
  }

  func enter(_ range: ByteRange, _ mode: RangeLock.Mode) -> Bool {
    var isAllowed = true
    for cell in Int(range.offset)..<Int(range.end) {
      isAllowed = isAllowed && writers[cell] == 0 && (mode == .shared || readers[cell] == 0)
      if mode == .shared { readers[cell] += 1 } else { writers[cell] += 1 }
    }
    return isAllowed
  }

  func leave(_ range: ByteRange, _ mode: RangeLock.Mode) {
    for cell in Int(range.offset)..<Int(range.end) {
      if mode == .shared { readers[cell] -= 1 } else { writers[cell] -= 1 }
    }
  }
}
