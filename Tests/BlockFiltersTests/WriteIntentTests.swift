import Bitmaps
import BlockCore
import BlockFilters
import BlockTesting
import Testing

/// A region is in the log, durably, before the first change in it is submitted, and for as long as power loss could take
/// one back or nothing else tells of it.
struct WriteIntentTests {
  private static let diskByteCount: UInt64 = 24 << 20
  private static let granularity: UInt64 = 4096

  /// A disk with its record, as an image has them.
  private final class Record: @unchecked Sendable {
    // Safe to hand over: confined to its loop.
    let map: RecordingMap
    let log: WriteIntentLog
    private(set) var filter: WriteIntent!
    private let memory: UnsafeMutableRawPointer
    var giveUps: [BlockError] = []
    var giveUpFailure: BlockError?

    init(on disk: any BlockDevice, log storage: any BlockDevice) async throws {
      let layout = RecordingMap.Layout(diskByteCount: diskByteCount, granularity: granularity)
      memory = .allocate(byteCount: layout.byteCount, alignment: 4096)
      memory.initializeMemory(as: UInt8.self, repeating: 0, count: layout.byteCount)
      map = RecordingMap(layout, record: 1, session: 2, in: memory) { _ in true }
      log = try await WriteIntentLog.create(
        on: storage, diskByteCount: diskByteCount,
        WriteIntentLog.Head(record: 1, session: 2, sequence: 1, boot: 3)
      ) { 1000 }
      filter = WriteIntent(disk, map: map, log: log, now: { 1001 }) { [unowned self] (error) async throws(BlockError) in
        giveUps.append(error)
        if let giveUpFailure { throw giveUpFailure }
      }
    }

    deinit { memory.deallocate() }
  }

  /// What a story did, and what it may rely on after a crash.
  private struct Story {
    /// Every change that was submitted.
    var changes: [ByteRange] = []
    /// So many of the changes are told of by bits that are durable.
    var savedCount = 0
    /// What a backup read at some moment, and how many changes there were before.
    var checkpoints: [(image: SparseImage, changeCount: Int)] = []

    /// Where a disk differs from what a backup read, and how many changes there were before that.
    struct Difference: Hashable {
      var offset: UInt64
      var changeCount: Int
    }

    func differences(of found: MemoryDevice) async throws -> Set<Difference> {
      var differences: Set<Difference> = []
      let offsets = Set(changes.flatMap { stride(from: $0.offset, to: $0.end, by: WriteIntentTests.blockByteCount) })
      for checkpoint in checkpoints {
        let read = MemoryDevice(checkpoint.image)
        for offset in offsets
        where try await read.readBytes(WriteIntentTests.blockByteCount, at: offset)
          != found.readBytes(WriteIntentTests.blockByteCount, at: offset)
        {
          differences.insert(Difference(offset: offset, changeCount: checkpoint.changeCount))
        }
      }
      return differences
    }

    func tells(of difference: Difference, _ log: WriteIntentLog.Contents) -> Bool {
      let block = ByteRange(offset: difference.offset, length: UInt64(WriteIntentTests.blockByteCount))
      if log.regions.indices(of: block).contains(where: log.logged.contains) { return true }
      return changes[..<savedCount].dropFirst(difference.changeCount).contains {
        $0.offset < block.end && $0.end > block.offset
      }
    }
  }

  private static let blockByteCount = 4096

  private static let storageByteCount = WriteIntentLog.byteCount

  /// - Parameter story: is kept up to date to the moment of a crash.
  private func tell(
    _ seed: UInt64, _ disk: CrashPointDevice, _ storage: CrashPointDevice, _ story: inout Story
  ) async throws {
    var random = SeededRandom(seed: seed)
    let record = try await Record(on: disk, log: storage)
    // Without power nothing else can be made durable either.
    record.giveUpFailure = BlockError(.io(errno: 5), .write)
    story.checkpoints.append((disk.liveImage, 0))
    for _ in 0..<30 {
      switch random.below(8) {
      case 0: try await record.filter.flush()
      case 1: story.checkpoints.append((disk.liveImage, story.changes.count))
      case 2:
        // What leaves the log is durable, and told of by durable bits.
        let quiet = record.log.quiet()
        let count = story.changes.count
        if random.oneIn(2) { try await change(record.filter, &random, &story) }
        try await record.filter.flush()
        story.savedCount = max(story.savedCount, count)
        if random.oneIn(2) { try await change(record.filter, &random, &story) }
        var head = record.log.head
        head.sequence += 1
        head.nextSequence = head.sequence
        try await record.log.remove(quiet, head)
      default: try await change(record.filter, &random, &story)
      }
    }
  }

  private func change(_ device: WriteIntent, _ random: inout SeededRandom, _ story: inout Story) async throws {
    let range = random.range(within: Self.diskByteCount, alignment: Self.blockByteCount, maximum: 16384, near: 1 << 20)
    let part = ByteRange(range.lowerBound..<range.upperBound)
    story.changes.append(part)
    switch random.below(4) {
    case 0: try await device.writeZeroes(part, options: .mayUnmap)
    case 1: try await device.discard(part)
    default: try await device.writeBytes(random.bytes(Int(part.length)), at: part.offset)
    }
  }

  /// The superset rule: what differs from what a backup read is in the log, or in bits that are durable, whatever of the
  /// unflushed changes is lost.
  @Test(arguments: 1...2) func atEveryCrashPointTheLogHasWhatMayDiffer(seed: UInt64) async throws {
    try await LoopActor().run { _ in
      let disk = CrashPointDevice(byteCount: Self.diskByteCount)
      let storage = CrashPointDevice(byteCount: Self.storageByteCount)
      var whole = Story()
      try await tell(seed, disk, storage, &whole)
      let (diskCalls, logCalls) = (disk.changingCalls, storage.changingCalls)
      #expect(diskCalls > 15 && logCalls > 8)
      for point in 1...diskCalls + logCalls {
        let disk = CrashPointDevice(byteCount: Self.diskByteCount)
        let storage = CrashPointDevice(byteCount: Self.storageByteCount)
        if point > diskCalls { storage.crash(atCall: point - diskCalls) } else { disk.crash(atCall: point) }
        var story = Story()
        try? await tell(seed, disk, storage, &story)
        disk.crashNow()
        storage.crashNow()
        var differences: Set<Story.Difference> = []
        for found in disk.durableImages(seed: UInt64(point), count: 2) {
          differences.formUnion(try await story.differences(of: found))
        }
        for log in storage.durableImages(seed: UInt64(point), count: 2) {
          guard let contents = try await WriteIntentLog.contents(of: log) else {
            #expect(story.changes.isEmpty, "seed \(seed), point \(point): no log is left")
            continue
          }
          #expect(contents.regions.byteCount == Self.diskByteCount && contents.head.session == 2)
          let missed = differences.filter { !story.tells(of: $0, contents) }
          #expect(missed.isEmpty, "seed \(seed), point \(point)")
        }
      }
    }
  }

  /// Counts the log's writes, and holds them back.
  private final class Gate: BlockFilter, @unchecked Sendable {
    // Safe to hand over: confined to its loop.
    let next: any BlockDevice
    private(set) var writeCount = 0
    var isShut = false
    private var waiting: [UnsafeContinuation<Void, Never>] = []

    init(_ next: any BlockDevice) { self.next = next }

    func open() {
      isShut = false
      for waiter in waiting { waiter.resume() }
      waiting = []
    }

    nonisolated(nonsending)
      func change(
        _ kind: BlockChange, _ range: ByteRange,
        _ perform: nonisolated(nonsending) (ByteRange) async throws(BlockError) -> Void
      ) async throws(BlockError)
    {
      writeCount += 1
      if isShut { await withUnsafeContinuation { waiting.append($0) } }
      try await perform(range)
    }
  }

  @Test func aFirstTouchWaitsAndFirstTouchesShareAWrite() async throws {
    try await LoopActor().run { loop in
      let disk = MemoryDevice(byteCount: Self.diskByteCount)
      let gate = Gate(MemoryDevice(byteCount: Self.storageByteCount))
      let record = try await Record(on: disk, log: gate)
      let before = gate.writeCount
      gate.isShut = true
      let region: UInt64 = 1 << 20
      let tasks = [0, 0, 1, 2, 5].map { index in
        Task {
          try await loop.run { _ in try await record.filter.writeBytes([1], at: index * region + 77) }
        }
      }
      for _ in 0..<200 { await Task.yield() }
      #expect(disk.calls[.write] == 0, "nothing is submitted before the log has it")
      gate.open()
      for task in tasks { try await task.value }
      #expect(disk.calls[.write] == 5)
      #expect(gate.writeCount - before <= 2, "the first one's write, and one of all that came meanwhile")
      let writes = gate.writeCount
      try await record.filter.writeBytes([2], at: 3 * region - 5)
      try await record.filter.writeZeroes(ByteRange(offset: 0, length: region * 2), options: [])
      #expect(gate.writeCount == writes, "the log has these")
      try await record.filter.discard(ByteRange(offset: 0, length: 4 * region))
      #expect(gate.writeCount == writes + 1)
    }
  }

  @Test func aRegionStaysWhileAChangeInItIsInFlightOrHasBegunSince() async throws {
    try await LoopActor().run { _ in
      let record = try await Record(
        on: MemoryDevice(byteCount: Self.diskByteCount), log: MemoryDevice(byteCount: Self.storageByteCount))
      let (log, region) = (record.log, UInt64(1 << 20))
      func part(_ index: UInt64) -> ByteRange { ByteRange(offset: index * region, length: 512) }
      for index: UInt64 in 0..<4 { try await log.begin(part(index)) }
      for index: UInt64 in 1..<4 { log.ended(part(index)) }
      #expect(log.quiet().isEmpty, "all were touched since it was last asked")
      var quiet = log.quiet()
      #expect(quiet.indices == [1, 2, 3], "a change in the first is in flight")
      try await log.begin(part(2))
      log.ended(part(2))
      try await log.remove(quiet, log.head)
      #expect(log.tryBegin(part(2)) && !log.tryBegin(part(1)) && !log.tryBegin(part(3)))
      log.ended(part(2))
      log.ended(part(0))
      _ = log.quiet()
      quiet = log.quiet()
      #expect(quiet.indices == [0, 2])
      try await log.remove(quiet, log.head)
      #expect(!log.tryBegin(part(0)))
    }
  }

  /// The guest's writes go on, once it is durable that the record doesn't count any more.
  @Test(arguments: Fault.Effect.allCases) func aLogThatCannotBeWrittenEndsTheRecordAndNoWrite(_ effect: Fault.Effect)
    async throws
  {
    try await LoopActor().run { _ in
      _ = try await forEachFault(limit: 60) { call in
        let disk = MemoryDevice(byteCount: Self.diskByteCount)
        let storage = FaultyDevice(MemoryDevice(byteCount: Self.storageByteCount))
        let record = try await Record(on: disk, log: storage)
        storage.fault = Fault(atCall: call, of: [.write], .io(errno: 5), .fromThenOn, effect: effect)
        for index in 0..<30 {
          let offset = UInt64(index * 7919 % 24) << 20
          let calls = storage.countedCalls
          try await record.filter.writeBytes([UInt8(index + 1)], at: offset)
          #expect(try await disk.readBytes(1, at: offset) == [UInt8(index + 1)])
          if record.filter.isOver, calls > call { #expect(storage.countedCalls == calls, "it is written no more") }
        }
        try await record.filter.flush()
        #expect(record.giveUps.count == (storage.wasHit ? 1 : 0) && record.filter.isOver == storage.wasHit)
        return storage.wasHit
      }
    }
  }

  /// A write that nothing durable tells of isn't made.
  @Test func aRecordThatCannotBeEndedFailsTheChange() async throws {
    try await LoopActor().run { _ in
      let disk = MemoryDevice(byteCount: Self.diskByteCount)
      let storage = FaultyDevice(MemoryDevice(byteCount: Self.storageByteCount))
      let record = try await Record(on: disk, log: storage)
      storage.fault = Fault(atCall: 1, of: [.write])
      record.giveUpFailure = BlockError(.latchedFailed, .write)
      for _ in 0..<2 {
        await #expect(throws: BlockError.self) { try await record.filter.writeBytes([1], at: 0) }
      }
      #expect(disk.calls[.write] == 0 && !record.filter.isOver)
      record.giveUpFailure = nil
      try await record.filter.writeBytes([1], at: 0)
      #expect(disk.calls[.write] == 1 && record.filter.isOver)
    }
  }

  /// The record is of one size: it ends before the disk has another.
  @Test func aResizeEndsTheRecord() async throws {
    try await LoopActor().run { _ in
      let disk = MemoryDevice(byteCount: Self.diskByteCount)
      let record = try await Record(on: disk, log: MemoryDevice(byteCount: Self.storageByteCount))
      record.giveUpFailure = BlockError(.latchedFailed, .write)
      await #expect(throws: BlockError.self) { try await record.filter.resize(to: Self.diskByteCount * 2) }
      #expect(disk.byteCount == Self.diskByteCount)
      record.giveUpFailure = nil
      try await record.filter.resize(to: Self.diskByteCount * 2)
      try await record.filter.writeBytes([1], at: Self.diskByteCount)
      #expect(disk.byteCount == Self.diskByteCount * 2 && record.filter.isOver)
    }
  }
}
