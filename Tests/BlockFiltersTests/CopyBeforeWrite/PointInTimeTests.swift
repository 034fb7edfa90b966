import Bitmaps
import BlockCore
import BlockFilters
import BlockTesting
import Glibc
import Testing

/// What a point in time costs, when it is lost, and what is left of it.
@Suite struct PointInTimeTests {
  private typealias Fixture = CopyBeforeWriteFixture

  private static let old = [UInt8](repeating: 0x11, count: 16 * 4096)

  // MARK: What it costs

  @Test func aGrainIsCopiedOnceWhateverComesAfter() throws {
    let fixture = Fixture()
    try fixture.run { fixture in
      let view = fixture.filter.begin()
      for byte in 1...5 as ClosedRange<UInt8> { try await fixture.write(byte, grain: 3) }
      #expect(view.report.copyCount == 1 && view.report.copiedByteCount == 4096 && view.report.waits.count == 1)
      #expect(fixture.source.calls[.read] == 1)
      #expect(try await view.readAll() == Self.old)
      #expect(try await fixture.filter.readBytes(1, at: 3 * 4096) == [5])
      try await view.close()
      #expect(fixture.store.memoryByteCount == 0 && fixture.pool.lentByteCount == 0)
    }
  }

  @Test func changesOfOneGrainWaitForOneCopy() throws {
    let fixture = Fixture()
    let view = fixture.filter.begin()
    fixture.source.shut = [.read]
    for offset in [0, 100, 5000, 9000] as [UInt64] {
      fixture.start { try await $0.filter.writeBytes([UInt8](repeating: 9, count: 4000), at: offset) }
    }
    try fixture.run { true }
    fixture.source.open()
    try fixture.run()
    #expect(fixture.source.readByteCount == 4 * 4096 && view.report.copyCount == 4 && view.report.waits.count == 4)
  }

  @Test func zeroesAreRememberedAndNotRead() throws {
    let fixture = Fixture()
    try fixture.run { fixture in
      try await fixture.filter.writeZeroes(fixture.range(4..<8), options: .mayUnmap)
      let view = fixture.filter.begin()
      try await fixture.write(9, grain: 4, count: 4)
      #expect(fixture.source.calls[.read] == 0 && view.report.copyCount == 0)
      #expect(view.report.rememberedByteCount == 4 * 4096 && fixture.store.memoryByteCount == 0)
      #expect(try await view.readBytes(4 * 4096, at: 4 * 4096).allSatisfy { $0 == 0 })
      let status = try await view.wholeStatus(ByteRange(offset: 0, length: 16 * 4096))
      #expect(status.map(\.readsAsZero) == [false, true, false] && status[1].range == fixture.range(4..<8))
    }
  }

  @Test func whatIsReleasedOrNotWantedCostsNothing() throws {
    let fixture = Fixture()
    try fixture.run { fixture in
      var wanted = DirtyBitmap(byteCount: 16 * 4096, granularity: 4096)
      wanted.set(fixture.range(0..<8))
      let view = fixture.filter.begin(wanted: wanted)
      try await fixture.write(1, grain: 0)
      #expect(fixture.store.memoryByteCount == 4096)
      // The grain at the end of the range isn't whole.
      view.release([ByteRange(0..<3 * 4096 + 100)])
      #expect(fixture.store.memoryByteCount == 0)
      try await fixture.write(2, grain: 0, count: 3)
      try await fixture.write(2, grain: 8, count: 8)
      #expect(view.report.copyCount == 1)
      try await fixture.write(2, grain: 3)
      #expect(view.report.copyCount == 2)
      for grain in [0, 2, 8] as [UInt64] {
        let error = await #expect(throws: BlockError.self) { try await view.readBytes(1, at: grain * 4096) }
        #expect(error?.kind == .io(errno: EPERM))
      }
      #expect(try await view.readBytes(5 * 4096, at: 3 * 4096) == [UInt8](repeating: 0x11, count: 5 * 4096))
    }
  }

  @Test func aReaderThatIsAheadLeavesMemoryAndTempEmpty() throws {
    let fixture = Fixture()
    try fixture.run { fixture in
      let view = fixture.filter.begin()
      for grain in 0..<16 as Range<UInt64> {
        #expect(try await view.readBytes(4096, at: grain * 4096) == [UInt8](repeating: 0x11, count: 4096))
        view.release([fixture.range(grain..<grain + 1)])
        try await fixture.write(7, grain: grain)
      }
      let report = view.report
      #expect(report.copyCount == 0 && report.memoryHighWaterByteCount == 0 && report.tempHighWaterByteCount == 0)
      #expect(fixture.source.calls[.read] == 16)
    }
  }

  @Test func twoMomentsShareWhatIsKept() throws {
    let fixture = Fixture()
    try fixture.run { fixture in
      let first = fixture.filter.begin()
      let second = fixture.filter.begin()
      try await fixture.write(1, grain: 5)
      #expect(fixture.source.calls[.read] == 1 && fixture.store.memoryByteCount == 4096)
      let third = fixture.filter.begin()
      try await fixture.write(2, grain: 5)
      #expect(fixture.source.calls[.read] == 2 && fixture.store.memoryByteCount == 2 * 4096)
      try await first.close()
      #expect(try await second.readAll() == Self.old)
      try await second.close()
      #expect(fixture.store.memoryByteCount == 4096)
      #expect(try await third.readBytes(1, at: 5 * 4096) == [1])
      try await third.close()
      #expect(fixture.store.memoryByteCount == 0 && !fixture.filter.hasPoints)
    }
  }

  // MARK: Shared reads

  @Test func aReadersReadServesTheGuest() throws {
    let fixture = Fixture()
    let view = fixture.filter.begin()
    fixture.source.shut = [.read]
    fixture.start { _ in
      let bytes = try await view.readBytes(8 * 4096, at: 0)
      #expect(bytes == Array(Self.old[..<(8 * 4096)]))
    }
    try fixture.run { fixture.source.waitingCount == 1 }
    fixture.start { try await $0.write(3, grain: 2) }
    try fixture.run { true }
    #expect(fixture.memory.calls[.write] == 0)
    fixture.source.open()
    try fixture.run()
    try fixture.run { fixture in
      let (before, now) = (try await view.readAll(), try await fixture.filter.readBytes(1, at: 2 * 4096))
      #expect(before == Self.old && now == [3])
    }
    #expect(view.report.sharedReadCount == 1 && view.report.copyCount == 1)
  }

  @Test func aGuestsReadServesTheReader() throws {
    let fixture = Fixture()
    let view = fixture.filter.begin()
    fixture.source.shut = [.read]
    fixture.start { try await $0.write(3, grain: 2) }
    try fixture.run { fixture.source.waitingCount == 1 }
    fixture.start { _ in
      let bytes = try await view.readBytes(4096, at: 2 * 4096)
      #expect(bytes == Array(Self.old[..<4096]))
    }
    try fixture.run { true }
    fixture.source.open()
    try fixture.run()
    #expect(fixture.source.calls[.read] == 1)
  }

  /// What is under way for a reader of an earlier moment may have been read before the later one.
  @Test func aReadOfAnEarlierMomentServesNoLaterOne() throws {
    let fixture = Fixture()
    let first = fixture.filter.begin()
    (fixture.source.shut, fixture.source.isLate) = ([.read], true)
    fixture.start { _ in
      let bytes = try await first.readBytes(4096, at: 0)
      #expect(bytes == Array(Self.old[..<4096]))
    }
    try fixture.run { fixture.source.waitingCount == 1 }
    (fixture.source.shut, fixture.source.isLate) = ([], false)
    // More than the reader reads, so that it isn't waited for.
    let writes = Told()
    fixture.start {
      try await $0.write(1, grain: 0, count: 2); writes.count += 1
    }
    try fixture.run { writes.count == 1 }
    let second = fixture.filter.begin()
    fixture.start {
      try await $0.write(2, grain: 0); writes.count += 1
    }
    try fixture.run { writes.count == 2 }
    fixture.source.open()
    try fixture.run { _ in
      let bytes = try await second.readBytes(4096, at: 0)
      #expect(bytes == [UInt8](repeating: 1, count: 4096))
    }
    #expect(first.loss == nil && second.loss == nil)
  }

  // MARK: Memory and temp

  @Test func memoryIsSpilledBehindTheGuestAndFreedAtTheEnd() throws {
    let fixture = Fixture(memoryGrainCount: 8)
    try fixture.run { fixture in
      let view = fixture.filter.begin()
      for grain in 0..<16 as Range<UInt64> { try await fixture.write(1, grain: grain) }
      #expect(try await view.readAll() == Self.old)
      let report = view.report
      #expect(report.memoryHighWaterByteCount <= 8 * 4096 && report.tempHighWaterByteCount >= 8 * 4096)
      #expect(fixture.tempMemory.calls[.flush] == 0)
      try await view.close()
    }
    try fixture.run { fixture in for _ in 0..<50 { await fixture.loop.breathe() } }
    #expect(fixture.store.memoryByteCount == 0 && fixture.store.tempByteCount == 0)
    #expect(fixture.tempMemory.image.allocatedByteCount == 0 && fixture.pool.lentByteCount == 0)
  }

  /// The temp hangs: the guest goes on as long as memory has room.
  @Test func aTempThatHangsIsNotWaitedForWhileMemoryHasRoom() throws {
    let fixture = Fixture(memoryGrainCount: 16)
    let view = fixture.filter.begin()
    fixture.temp.shut = [.write]
    try fixture.run { fixture in
      for grain in 0..<16 as Range<UInt64> { try await fixture.write(1, grain: grain) }
      #expect(fixture.temp.waitingCount == 1)
      #expect(try await view.readAll() == Self.old)
    }
    #expect(view.loss == nil)
    fixture.temp.open()
  }

  @Test func eachImageHasItsShareOfTheMemory() {
    let whole = FleecingMemory(limitByteCount: 100)
    let first = whole.share()
    #expect(first.limitByteCount == 100)
    do {
      let second = whole.share()
      #expect(first.limitByteCount == 50 && second.limitByteCount == 50)
    }
    #expect(first.limitByteCount == 100 && whole.usedByteCount == 0)
  }

  /// The temps of several images have one space: what one takes the other hasn't.
  @Test func theSpaceOfAllTempsIsBounded() throws {
    let space = FleecingSpace(limitByteCount: 3 * 4096)
    let first = Fixture(memoryGrainCount: 0, space: space)
    let second = Fixture(memoryGrainCount: 0, space: space)
    let views = [first, second].map { $0.filter.begin() }
    try first.run { for grain in 0..<2 as Range<UInt64> { try await $0.write(1, grain: grain) } }
    try second.run { try await $0.write(1, grain: 0) }
    #expect(space.usedByteCount == 3 * 4096 && views.allSatisfy { $0.loss == nil })
    try second.run { try await $0.write(1, grain: 1) }
    #expect(views[1].loss == .storeFull && views[0].loss == nil)
    try first.run { try await $0.write(1, grain: 2) }
    #expect(views[0].loss == nil && first.store.tempByteCount == 3 * 4096)
    try first.run { _ in try await views[0].close() }
    #expect(space.usedByteCount == 0)
  }

  // MARK: Lost

  /// What each has said for itself holds: the one that may be lost makes room for the one that throttles.
  @Test func pointsDifferInWhatAFullTempMeans() throws {
    let fixture = Fixture(memoryGrainCount: 1, tempGrainCount: 0)
    let first = fixture.filter.begin(onTempFull: .breakGuestWrite)
    try fixture.run { try await $0.write(1, grain: 0) }
    let second = fixture.filter.begin(onTempFull: .breakBackup)
    try fixture.run { fixture in
      let error = await #expect(throws: BlockError.self) { try await fixture.write(2, grain: 1) }
      #expect(error?.kind == .noSpace)
    }
    #expect(second.loss == .storeFull && first.loss == nil)
    try fixture.run { fixture in
      let old = try await first.readAll()
      #expect(old == Self.old)
      #expect(try await fixture.filter.readBytes(1, at: 4096) == [0x11])
    }
  }

  /// Neither the change that waits, nor a second one of its grain, nor the next one waits for the source any longer.
  @Test(arguments: [BlockError.Operation.read, .write])
  func aCopyThatHangsIsLeftToItsDevice(_ operation: BlockError.Operation) throws {
    let fixture = Fixture(memoryGrainCount: 0)
    let view = fixture.filter.begin()
    (operation == .read ? fixture.source : fixture.temp).shut = [operation]
    for byte in 1...3 as ClosedRange<UInt8> { fixture.start { try await $0.write(byte, grain: 4, count: 2) } }
    try fixture.run()
    #expect(view.loss == .timedOut(.seconds(2)))
    // A new moment isn't held up by what hangs.
    fixture.temp.shut = []
    fixture.source.shut = []
    let next = fixture.filter.begin()
    try fixture.run { fixture in
      try await fixture.write(8, grain: 4)
      let bytes = try await next.readBytes(4096, at: 4 * 4096)
      #expect(bytes.allSatisfy { (1...3).contains($0) })
      let error = await #expect(throws: BlockError.self) { try await view.readBytes(1, at: 0) }
      #expect(error?.kind == .pointInTimeLost && error?.cause?.contains("2.0 seconds") == true)
      fixture.source.open()
      fixture.temp.open()
      try await next.close()
    }
    try fixture.run { fixture in for _ in 0..<50 { await fixture.loop.breathe() } }
    #expect(fixture.store.tempByteCount == 0 && fixture.pool.lentByteCount == 0)
  }

  @Test func aReadInFlightFailsFromTheInstantOfTheLoss() throws {
    let fixture = Fixture()
    let told = Told()
    let view = fixture.filter.begin { told.losses.append($0) }
    fixture.source.shut = [.read]
    fixture.start { _ in
      let error = await #expect(throws: BlockError.self) { try await view.readBytes(4096, at: 0) }
      #expect(error?.kind == .pointInTimeLost)
    }
    try fixture.run { fixture.source.waitingCount == 1 }
    try fixture.run {
      fixture.filter.endPoints(); return true
    }
    fixture.source.open()
    try fixture.run()
    #expect(view.loss == .ended && told.losses == [.ended])
  }

  @Test func aSizeThatChangesCostsThePoint() throws {
    let fixture = Fixture()
    try fixture.run { fixture in
      let view = fixture.filter.begin()
      try await fixture.filter.resize(to: 16 * 4096)
      #expect(view.loss == nil)
      try await fixture.filter.resize(to: 8 * 4096)
      #expect(view.loss == .resized && view.byteCount == 16 * 4096)
      try await fixture.write(1, grain: 0)
      #expect(fixture.source.calls[.read] == 0)
    }
  }

  @Test func zeroesThatMustCopyFirstAreNotFast() throws {
    let fixture = Fixture()
    try fixture.run { fixture in
      try await fixture.filter.resize(to: 2 << 20)
      let view = fixture.filter.begin()
      let range = ByteRange(offset: 0, length: 2 << 20)
      let error = await #expect(throws: BlockError.self) {
        try await fixture.filter.writeZeroes(range, options: .onlyIfFast)
      }
      #expect(error?.kind == .notFast && fixture.memory.calls[.writeZeroes] == 0)
      view.release([range])
      try await fixture.filter.writeZeroes(range, options: .onlyIfFast)
    }
  }

  @Test func aViewIsReadOnly() throws {
    let fixture = Fixture()
    try fixture.run { fixture in
      let view = fixture.filter.begin()
      for change in 0..<4 {
        let error = await #expect(throws: BlockError.self) {
          switch change {
          case 0: try await view.writeBytes([1], at: 0)
          case 1: try await view.writeZeroes(fixture.range(0..<1), options: [])
          case 2: try await view.discard(fixture.range(0..<1))
          default: try await view.resize(to: 4096)
          }
        }
        #expect(error?.kind == .readOnly)
      }
      try await view.flush()
      #expect(fixture.memory.calls[.flush] == 0)
    }
  }

  // MARK: Figures

  @Test func quantilesAreAtMostAQuarterTooHigh() {
    var histogram = WaitHistogram()
    #expect(histogram.quantile(0.5) == .zero)
    for wait in 1...1000 { histogram.add(.microseconds(wait)) }
    for (part, exact) in [(0.5, 500.0), (0.99, 990.0), (1.0, 1000.0)] {
      let found = histogram.quantile(part) / .microseconds(1)
      #expect(found >= exact && found <= exact * 1.25)
    }
    #expect(histogram.longest == .microseconds(1000) && histogram.count == 1000)
  }

  @Test func theGrainFitsTheDiskTheTempAndTheCaller() {
    let disk = MemoryDevice(byteCount: 1 << 45)
    #expect(CopyBeforeWrite.grainByteCount(for: disk, temp: nil) == 8192)
    #expect(CopyBeforeWrite.grainByteCount(for: disk, temp: nil, atLeast: [65536, 100_000]) == 131072)
    var options = MemoryDevice.Options()
    options.limits.requestAlignment = 16384
    let blocks = MemoryDevice(byteCount: 1 << 20, options: options)
    #expect(CopyBeforeWrite.grainByteCount(for: MemoryDevice(byteCount: 1 << 20), temp: blocks) == 16384)
  }
}

private final class Told: @unchecked Sendable {
  // Safe to hand over: confined to the test's loop.
  var losses: [PointInTimeLoss] = []
  var count = 0
}
