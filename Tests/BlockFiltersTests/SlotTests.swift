import BlockCore
import BlockFilters
import BlockTesting
import Testing

@Suite struct SlotTests {
  @Test func newRequestsGoToWhatStandsBehindItNow() async throws {
    try await LoopActor().run { _ in
      let (first, second) = (MemoryDevice(byteCount: 8192), MemoryDevice(byteCount: 8192))
      let slot = Slot(first)
      try await slot.writeBytes([1, 2], at: 0)
      #expect(slot.changeCount == 2)
      slot.next = second
      try await slot.writeBytes([3, 4], at: 0)
      #expect(try await slot.readBytes(2, at: 0) == [3, 4])
      #expect(try await first.readBytes(2, at: 0) == [1, 2])
      #expect(slot.changeCount == 4)
    }
  }

  @Test func aHoldKeepsChangesBackAndLetsReadsAndFlushesPass() async throws {
    let home = LoopActor()
    let memory = MemoryDevice(byteCount: 4 << 20)
    let slot = Slot(memory)
    await home.run { _ in slot.hold() }
    async let change: Void = home.run { _ in try await slot.writeBytes([9], at: 5) }
    try await home.run { _ in
      while slot.heldCount == 0 { await Task.yield() }
      #expect(await slot.drain())
      let bytes = try await slot.readBytes(1, at: 5)
      #expect(bytes == [0])
      try await slot.flush()
      #expect(slot.changeCount == 0)
      slot.release()
    }
    try await change
    #expect(try await home.run { _ in try await slot.readBytes(1, at: 5) } == [9])
  }

  /// Else a zeroing of a terabyte would keep everybody's point in time waiting.
  @Test(arguments: [BlockChange.writeZeroes([.mayUnmap]), .discard])
  func aLongChangeStopsBetweenTwoPieces(_ kind: BlockChange) async throws {
    let home = LoopActor()
    let byteCount = 6 * Slot.pieceByteCount
    let memory = MemoryDevice(byteCount: byteCount)
    let counting = CountingFilter(memory)
    let slot = Slot(counting)
    counting.atChange = { if counting.changes.count == 2 { slot.hold() } }
    async let change: Void = home.run { _ in
      let range = ByteRange(offset: 100, length: byteCount - 100)
      switch kind {
      case .writeZeroes(let options): try await slot.writeZeroes(range, options: options)
      default: try await slot.discard(range)
      }
    }
    await home.run { _ in
      while slot.heldCount == 0 { await Task.yield() }
      #expect(await slot.drain())
      #expect(
        counting.changes == [
          ByteRange(100..<Slot.pieceByteCount), ByteRange(Slot.pieceByteCount..<2 * Slot.pieceByteCount),
        ])
      slot.release()
    }
    try await change
    await home.run { _ in
      #expect(counting.changes.count == 6 && counting.changes.last?.end == byteCount)
    }
  }

  @Test func whatMustBeFastOrNotAtAllIsOneCall() async throws {
    try await LoopActor().run { _ in
      let counting = CountingFilter(MemoryDevice(byteCount: 64 << 20))
      let slot = Slot(counting)
      try await slot.writeZeroes(ByteRange(offset: 0, length: 64 << 20), options: [.onlyIfFast])
      #expect(counting.changes.count == 1)
    }
  }

  @Test func aDrainThatIsReleasedSaysSo() async throws {
    let home = LoopActor()
    let counting = CountingFilter(MemoryDevice(byteCount: 8192))
    let slot = Slot(counting)
    await home.run { _ in counting.isStuck = true }
    async let change: Void = home.run { _ in try await slot.writeBytes([1], at: 0) }
    await home.run { _ in while counting.changes.isEmpty { await Task.yield() } }
    await home.run { _ in slot.hold() }
    async let drained = home.run { _ in await slot.drain() }
    await home.run { _ in
      for _ in 0..<100 { await Task.yield() }
      slot.release()
    }
    #expect(await !drained)
    await home.run { _ in counting.isStuck = false }
    try await change
  }

  /// Requests from many tasks, points in time at random: what a drained slot shows stays as it is until the release,
  /// and in the end every task's last write is there.
  @Test func aStormOfChangesStandsStillAtEachPointInTime() async throws {
    let home = LoopActor()
    for seed in 1...UInt64(TestEffort.rounds(4)) {
      var options = MemoryDevice.Options()
      options.interleavingSeed = seed
      options.limits.requestAlignment = 512
      let memory = MemoryDevice(byteCount: 4 << 20, options: options)
      let slot = Slot(AlignedAccess(memory))
      let laneCount = 8
      try await withThrowingTaskGroup { group in
        for lane in 0..<laneCount {
          group.addTask {
            var random = SeededRandom(seed: seed &* 31 &+ UInt64(lane))
            for round in 1...200 {
              // Lanes lie side by side in each block, so that a lost part of one shows.
              let offset = UInt64(random.below(64) * 512 + lane * 64)
              let bytes = [UInt8](repeating: UInt8(round), count: 64)
              try await home.run { _ in try await slot.writeBytes(bytes, at: offset) }
              let last = UInt64(64 * 512 + lane * 64)
              try await home.run { _ in try await slot.writeBytes(bytes, at: last) }
            }
          }
        }
        group.addTask {
          for _ in 0..<20 {
            try await home.run { _ in
              slot.hold()
              #expect(await slot.drain())
              let seen = try await memory.readBytes(65 * 512, at: 0)
              let count = slot.changeCount
              for _ in 0..<50 { await Task.yield() }
              let still = try await memory.readBytes(65 * 512, at: 0)
              #expect(still == seen, "seed \(seed)")
              #expect(slot.changeCount == count, "seed \(seed)")
              slot.release()
              for _ in 0..<20 { await Task.yield() }
            }
          }
        }
        try await group.waitForAll()
      }
      try await home.run { _ in
        for lane in 0..<laneCount {
          let last = try await memory.readBytes(512, at: 64 * 512)
          #expect(last[lane * 64..<lane * 64 + 64].allSatisfy { $0 == 200 }, "seed \(seed), lane \(lane)")
        }
        #expect(slot.heldCount == 0 && slot.changeCount == UInt64(laneCount * 400 * 2))
      }
    }
  }
}

/// Remembers the changes that reach it.
final class CountingFilter: BlockFilter, @unchecked Sendable {
  // Safe to hand over: confined to the test's loop.
  let next: any BlockDevice
  private(set) var changes: [ByteRange] = []
  /// Called as each change begins.
  var atChange: () -> Void = {}
  /// Changes don't end while it is true.
  var isStuck = false

  init(_ next: any BlockDevice) { self.next = next }

  nonisolated(nonsending)
    func change(
      _ kind: BlockChange, _ range: ByteRange,
      _ perform: nonisolated(nonsending) (ByteRange) async throws(BlockError) -> Void
    ) async throws(BlockError)
  {
    changes.append(range)
    atChange()
    while isStuck { await Task.yield() }
    try await perform(range)
  }
}
