import Bytes
import BlockCore
import BlockTesting
import Buffers
import Engine
import EventLoops
import Foundation
import Model
import ModelTesting
import Qcow2
import Repositories
import Testing

/// A copy comes to the same in whatever order its steps come, and however many are under way.
struct CopyOrderTests {
  private static let backup = BackupID()

  /// What a copy has made.
  private struct Made: Equatable {
    var root: Digest
    var hashes: [UInt8]
    var data: [UInt8]
    var dataByteCount: UInt64
  }

  /// Runs `body` on a loop with a worker pool.
  private func onLoop(_ body: @Sendable @escaping (EventLoop, any BackgroundWork) async throws -> Void) async throws {
    let group = try EventLoopGroup(count: 1, workerCount: 2)
    let result: Result<Void, any Error>
    do {
      let loop = group.next()
      result = .success(try await loop.run { try await body(loop, Workers(pool: group.workers)) })
    } catch {
      result = .failure(error)
    }
    await group.shutdown()
    try result.get()
  }

  /// A disk with runs of noise, of text that shrinks, of stored zeroes, and holes.
  private func disk(_ byteCount: UInt64, _ random: inout SeededRandom) -> SparseImage {
    var image = SparseImage(byteCount: byteCount)
    change(&image, ByteRange(0..<byteCount), &random)
    return image
  }

  private func change(_ image: inout SparseImage, _ range: ByteRange, _ random: inout SeededRandom) {
    var offset = range.offset
    while offset < range.end {
      let count = Int(min(UInt64(1 + random.below(200_000)), range.end - offset))
      switch random.below(4) {
      case 0:
        let noise = random.bytes(count)
        image.write(noise.span.bytes, at: offset)
      case 1:
        let text = [UInt8](repeating: UInt8(1 + random.below(200)), count: count)
        image.write(text.span.bytes, at: offset)
      case 2:
        let zeroes = [UInt8](repeating: 0, count: count)
        image.write(zeroes.span.bytes, at: offset)
      default: image.zero(ByteRange(offset: offset, length: UInt64(count)), unmap: true)
      }
      offset += UInt64(count)
    }
  }

  /// The regions in units of the geometry, cut further and in some order.
  nonisolated(nonsending)
    private func shuffled(
      _ regions: any Regions, byteCount: UInt64, _ geometry: ChunkGeometry, _ random: inout SeededRandom
    ) async throws -> ListedRegions
  {
    var plan = CopyPlan(regions, byteCount: byteCount, geometry: geometry)
    var cut: [Region] = []
    while let step = try await plan.next({}) {
      var start = step.range.offset
      while start < step.range.end {
        let length = UInt64((1 + random.below(9)) * geometry.unit)
        let end = min(start + length, step.range.end)
        let content: Region.Content =
          switch step.action {
          case .copy: .data
          case .zero: .zeroes
          case .skip: .unchanged
          }
        cut.append(Region(range: ByteRange(start..<end), content: content))
        start = end
      }
    }
    for index in cut.indices.reversed() { cut.swapAt(index, random.below(index + 1)) }
    return ListedRegions(regions: cut[...])
  }

  /// Backs `source` up as the engine does.
  private struct Backup {
    let loop: EventLoop
    let work: any BackgroundWork
    var geometry = ChunkGeometry.standard
    var isCompressed = false
    var hashFile: any BlockDevice = MemoryDevice(byteCount: 0)
    var dataFile: any BlockDevice = MemoryDevice(byteCount: 0)

    nonisolated(nonsending)
      func run(_ source: any BlockDevice, _ regions: (any Regions)?, depth: Int) async throws -> Made
    {
      let byteCount = source.byteCount
      try await Qcow2Image.create(
        on: dataFile,
        options: .init(
          virtualByteCount: Qcow2Image.byteCount(holding: byteCount), clusterByteCount: geometry.cluster,
          compressionType: .zstd))
      let target = try await Qcow2Image.open(
        dataFile, options: .init(isReadOnly: false), work: work, pool: BufferPool())
      let hashes = try await HashTreeWriter(HashTree(byteCount: byteCount), to: hashFile, work: work)
      let control = RecordingJobControl()
      let sink = BackupSink(
        source: "the source", hashes: hashes, hashesName: "the hashes",
        target: TargetWriter(target, name: "the target", zeroes: .leave, geometry: geometry, control: control))
      nonisolated(unsafe) let handed: any CopySink = sink
      let copy = CopyLoop(
        on: loop, from: source, byteCount: byteCount, regions: regions, to: handed, geometry: geometry,
        compressors: isCompressed ? try CompressorShelf(level: 1, geometry: geometry) : nil,
        pace: FixedPace(depth: depth), work: work, control: control
      ) { DomainError($0, of: "the source") }
      try await copy.run()
      #expect(control.reports.last?.done == byteCount)
      #expect(zip(control.reports, control.reports.dropFirst()).allSatisfy { $0.done <= $1.done })
      let root = try await hashes.finish(backup: CopyOrderTests.backup)
      try await target.flush()
      let data = try await target.readBytes(Int(byteCount), at: 0)
      #expect(try await target.check { _ in }.findings.isEmpty)
      try await target.close()
      return Made(
        root: root, hashes: try await hashFile.readAll(), data: data, dataByteCount: sink.changedByteCount)
    }
  }

  @Test(arguments: [
    ChunkGeometry.standard, ChunkGeometry(cluster: 128 << 10), ChunkGeometry(cluster: 16 << 10, chunk: 256 << 10),
  ])
  func anyOrderGivesWhatTheOrderOfTheDiskGives(_ geometry: ChunkGeometry) async throws {
    try await onLoop { loop, work in
      for seed in 1...UInt64(TestEffort.rounds(4)) {
        var random = SeededRandom(seed: seed)
        let image = disk(UInt64((6 << 20) + random.below(100_000)), &random)
        let byteCount = image.byteCount
        let source = MemoryDevice(image)
        let content = try await source.readAll()
        for isCompressed in [false, true] {
          let linear = try await Backup(loop: loop, work: work, geometry: geometry, isCompressed: isCompressed)
            .run(source, nil, depth: 1)
          #expect(linear.data == content, "\(random)")
          let status = BlockStatusRegions(source, ByteRange(0..<byteCount))
          let regions = try await shuffled(status, byteCount: byteCount, geometry, &random)
          let slow = SlowDevice(source, loop: loop, seed: seed)
          let any = try await Backup(loop: loop, work: work, geometry: geometry, isCompressed: isCompressed)
            .run(slow, regions, depth: 16)
          #expect(any == linear, "\(random)")
        }
      }
    }
  }

  /// Only what changed is copied, over the parent's data and over its tree.
  @Test func changesOverAParentGiveTheWhole() async throws {
    try await onLoop { loop, work in
      for seed in 1...UInt64(TestEffort.rounds(4)) {
        var random = SeededRandom(seed: seed)
        let old = disk(UInt64((9 << 20) + random.below(100_000)), &random)
        let byteCount = old.byteCount
        let before = MemoryDevice(old)
        let parent = Backup(loop: loop, work: work)
        let parentRoot = try await parent.run(before, nil, depth: 4).root
        var new = old
        var changed: [ByteRange] = []
        var position: UInt64 = 0
        while true {
          let start = position + UInt64(random.below(1_000_000))
          guard start < byteCount else { break }
          let range = ByteRange(start..<min(byteCount, start + 1 + UInt64(random.below(300_000))))
          change(&new, range, &random)
          changed.append(range)
          position = range.end + 1
        }
        let source = MemoryDevice(new)
        let expected = try await Backup(loop: loop, work: work).run(source, nil, depth: 1)
        for isShuffled in [false, true] {
          let ranges = RangeRegions(changed, of: source, byteCount: byteCount)
          let regions: any Regions =
            isShuffled ? try await shuffled(ranges, byteCount: byteCount, .standard, &random) : ranges
          let reader = try await HashTreeReader(
            parent.hashFile, expecting: parentRoot, byteCount: byteCount, backup: Self.backup, work: work)
          let hashFile = MemoryDevice(byteCount: 0)
          let hashes = try await HashTreeWriter(
            HashTree(byteCount: byteCount), over: reader, to: hashFile, work: work)
          let (target, control) = (MemoryDevice(old), RecordingJobControl())
          nonisolated(unsafe) let sink: any CopySink = BackupSink(
            source: "the source", hashes: hashes, hashesName: "the hashes",
            over: BackupSink.Base(hashes: reader, name: "the parent's hashes"),
            target: TargetWriter(target, name: "the target", zeroes: .write, control: control))
          let slow = SlowDevice(source, loop: loop, seed: seed)
          let copy = CopyLoop(
            on: loop, from: slow, byteCount: byteCount, regions: regions, to: sink, pace: FixedPace(depth: 16),
            work: work, control: control
          ) { DomainError($0, of: "the source") }
          try await copy.run()
          #expect(slow.readByteCount < byteCount)
          #expect(control.reports.last?.done == byteCount)
          #expect(try await hashes.finish(backup: Self.backup) == expected.root, "\(random)")
          #expect(try await target.readAll() == source.readAll(), "\(random)")
        }
      }
    }
  }

  /// Source, hashes and target fail at each call in turn: what comes to an end is whole.
  @Test(arguments: ["source", "hashes", "data"])
  func faultAtAnyCallEndsTheCopy(where part: String) async throws {
    try await onLoop { loop, work in
      var random = SeededRandom(seed: 5)
      let image = disk((3 << 20) + 777, &random)
      let source = MemoryDevice(image)
      let status = BlockStatusRegions(source, ByteRange(0..<image.byteCount))
      let regions = try await shuffled(status, byteCount: image.byteCount, .standard, &random)
      let expected = try await Backup(loop: loop, work: work).run(source, nil, depth: 1)
      let failures = try await forEachFault(limit: 400) { call in
        let faulty = FaultyDevice(part == "source" ? source : MemoryDevice(byteCount: 0), fault: Fault(atCall: call))
        var backup = Backup(loop: loop, work: work, isCompressed: call % 2 == 0)
        if part == "hashes" { backup.hashFile = faulty }
        if part == "data" { backup.dataFile = faulty }
        do {
          let made = try await backup.run(part == "source" ? faulty : source, regions, depth: 16)
          // Reading back what was made may be what failed last.
          #expect(!faulty.wasHit && made == expected)
        } catch {
          #expect(faulty.wasHit, "call \(call): \(error)")
        }
        return faulty.wasHit
      }
      #expect(failures > 3)
    }
  }

  /// A chunk that is slow to come holds up none that lies behind it.
  @Test func slowChunkHoldsNoOther() async throws {
    try await onLoop { loop, work in
      let count: UInt64 = 12
      let device = MemoryDevice(byteCount: count << 20)
      for chunk in 0..<count { try await device.writeBytes([1], at: chunk << 20) }
      let sink = CountingSink()
      let held = HeldDevice(device, loop: loop) { sink.copied >= Int(count) - 1 }
      let copy = CopyLoop(
        on: loop, from: held, byteCount: device.byteCount, to: sink, pace: FixedPace(depth: 16), work: work,
        control: RecordingJobControl()
      ) { DomainError($0, of: "the source") }
      try await copy.run()
      #expect(held.wasReleased && sink.copied == Int(count))
    }
  }
}

// MARK: Parts

private struct Workers: BackgroundWork {
  let pool: WorkerPool

  nonisolated(nonsending)
    func run<Result: Sendable>(_ work: @Sendable @escaping () -> Result) async -> Result
  { await pool.run(work) }
}

private struct ListedRegions: Regions {
  var regions: ArraySlice<Region>

  nonisolated(nonsending)
    mutating func next(_ checkpoint: () async throws -> Void) async throws -> Region?
  {
    try await checkpoint()
    return regions.popFirst()
  }
}

/// Always as deep, and never held back.
private struct FixedPace: CopyPace {
  let depth: Int

  func delay(limit: UInt64, now: Double) -> Double { 0 }
  func begin(byteCount: UInt64, now: Double) {}
  func complete(byteCount: UInt64, now: Double) {}
}

/// Takes its time for reads, some longer than others.
private final class SlowDevice: BlockFilter, @unchecked Sendable {
  // Safe to hand over: confined to its loop.
  let next: any BlockDevice
  private let loop: EventLoop
  private var random: SeededRandom
  private(set) var readByteCount: UInt64 = 0

  init(_ next: any BlockDevice, loop: EventLoop, seed: UInt64) {
    self.next = next
    self.loop = loop
    random = SeededRandom(seed: seed)
  }

  nonisolated(nonsending)
    func read(into buffer: inout MutableRawSpan, at offset: UInt64) async throws(BlockError)
  {
    readByteCount += UInt64(buffer.byteCount)
    try? await loop.sleep(for: .microseconds(random.below(2000)))
    try await next.read(into: &buffer, at: offset)
  }

  nonisolated(nonsending)
    func change(
      _ kind: BlockChange, _ range: ByteRange,
      _ perform: nonisolated(nonsending) (ByteRange) async throws(BlockError) -> Void
    ) async throws(BlockError)
  { try await perform(range) }
}

/// Holds the read of the first byte until told.
private final class HeldDevice: BlockFilter, @unchecked Sendable {
  // Safe to hand over: confined to its loop.
  let next: any BlockDevice
  private let loop: EventLoop
  private let isReleased: () -> Bool
  private(set) var wasReleased = false

  init(_ next: any BlockDevice, loop: EventLoop, until isReleased: @escaping () -> Bool) {
    self.next = next
    self.loop = loop
    self.isReleased = isReleased
  }

  nonisolated(nonsending)
    func read(into buffer: inout MutableRawSpan, at offset: UInt64) async throws(BlockError)
  {
    if offset == 0 {
      for _ in 0..<6000 where !isReleased() { try? await loop.sleep(for: .milliseconds(5)) }
      wasReleased = isReleased()
    }
    try await next.read(into: &buffer, at: offset)
  }

  nonisolated(nonsending)
    func change(
      _ kind: BlockChange, _ range: ByteRange,
      _ perform: nonisolated(nonsending) (ByteRange) async throws(BlockError) -> Void
    ) async throws(BlockError)
  { try await perform(range) }
}

private final class CountingSink: CopySink, @unchecked Sendable {
  // Safe to hand over: confined to the loop.
  private(set) var copied = 0

  nonisolated(nonsending)
    func admit(_ chunk: Chunk) async throws
  {}

  nonisolated(nonsending)
    func store(_ chunk: Chunk) async throws
  { if chunk.step.action == .copy { copied += 1 } }
}
