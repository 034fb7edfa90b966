import Bitmaps
import BlockCore
import BlockFilters
import EventLoops
import Glibc
import RawFile

/// What a filter costs a request that passes it: nanoseconds a call, beyond those of the same call without it, on an
/// event loop and over a device that answers at once.

/// Answers everything at once.
final class Instant: BlockDevice, @unchecked Sendable {
  // Safe to hand over: has no state.
  let byteCount: UInt64 = 1 << 30
  let limits = BlockLimits()
  let isReadOnly = false

  func tryRead(into buffer: inout MutableRawSpan, at offset: UInt64) throws(BlockError) -> Bool { true }
  nonisolated(nonsending)
    func read(into buffer: inout MutableRawSpan, at offset: UInt64) async throws(BlockError)
  {}
  nonisolated(nonsending)
    func write(_ bytes: RawSpan, at offset: UInt64, options: WriteOptions) async throws(BlockError)
  {}
  nonisolated(nonsending) func writeZeroes(_ range: ByteRange, options: ZeroOptions) async throws(BlockError) {}
  nonisolated(nonsending) func discard(_ range: ByteRange) async throws(BlockError) {}
  nonisolated(nonsending) func flush() async throws(BlockError) {}
  nonisolated(nonsending)
    func blockStatus(_ range: ByteRange, limit: Int) async throws(BlockError) -> [Extent]
  { [] }
  nonisolated(nonsending) func resize(to byteCount: UInt64) async throws(BlockError) {}
  nonisolated(nonsending) func close() async throws(BlockError) {}
}

/// Forwards everything.
final class Passage: BlockFilter, @unchecked Sendable {
  // Safe to hand over: has no state that changes.
  let next: any BlockDevice
  /// Begins changes without waiting.
  private let isQuick: Bool

  init(_ next: any BlockDevice, isQuick: Bool) {
    self.next = next
    self.isQuick = isQuick
  }

  nonisolated(nonsending)
    func change(
      _ kind: BlockChange, _ range: ByteRange,
      _ perform: nonisolated(nonsending) (ByteRange) async throws(BlockError) -> Void
    ) async throws(BlockError)
  {
    try await perform(range)
  }

  func tryBegin(_ kind: BlockChange, _ range: ByteRange) -> Bool { isQuick }
}

/// Records in a bitmap, as an image's do.
final class Recorder: ChangeRecorder, @unchecked Sendable {
  // Safe to hand over: confined to its loop.
  private var bitmap: DirtyBitmap

  init(byteCount: UInt64) { bitmap = DirtyBitmap(byteCount: byteCount, granularity: 4096) }

  func record(_ range: ByteRange) { bitmap.set(range) }
}

/// Records for after a crash.
enum CrashSafety {
  static let clock: @Sendable () -> Int64 = {
    var now = timespec()
    clock_gettime(CLOCK_REALTIME_COARSE, &now)
    return Int64(now.tv_sec)
  }

  nonisolated(nonsending)
    static func filter(_ next: any BlockDevice, log storage: any BlockDevice) async throws(BlockError) -> WriteIntent
  {
    let layout = RecordingMap.Layout(diskByteCount: next.byteCount, granularity: 4096)
    let memory = UnsafeMutableRawPointer.allocate(byteCount: layout.byteCount, alignment: 4096)
    memory.initializeMemory(as: UInt8.self, repeating: 0, count: layout.byteCount)
    let log = try await WriteIntentLog.create(
      on: storage, diskByteCount: next.byteCount, WriteIntentLog.Head(record: 1, session: 1, sequence: 1, boot: 1),
      now: clock)
    return WriteIntent(
      next, map: RecordingMap(layout, record: 1, session: 1, in: memory) { _ in true }, log: log, now: clock
    ) { (error) async throws(BlockError) in throw error }
  }
}

struct Graph {
  var name: String
  /// How many filters stand in it.
  var count: Int
  var top: any BlockDevice
}

actor Bench {
  nonisolated let loop: EventLoop
  nonisolated var unownedExecutor: UnownedSerialExecutor { loop.asUnownedSerialExecutor() }
  private let callCount = 200_000
  private let rounds = 15

  init(_ loop: EventLoop) { self.loop = loop }

  func run() async throws {
    let instant: any BlockDevice = Instant()
    let graphs = [
      Graph(name: "4 that forward", count: 4, top: (0..<4).reduce(instant) { next, _ in Passage(next, isQuick: true) }),
      Graph(
        name: "4 whose changes wait", count: 4, top: (0..<4).reduce(instant) { n, _ in Passage(n, isQuick: false) }),
      Graph(name: "Slot", count: 1, top: Slot(Instant())),
      Graph(name: "AlignedAccess", count: 1, top: AlignedAccess(Instant())),
      Graph(
        name: "DirtyTracking", count: 1,
        top: DirtyTracking(Instant(), recorder: Recorder(byteCount: instant.byteCount))),
      Graph(name: "WriteIntent", count: 1, top: try await CrashSafety.filter(Instant(), log: Instant())),
    ]
    let bare = Instant()
    print("graph                     tryRead  read  write   (ns for each filter and call)")
    for graph in graphs {
      let row = try await (
        cost(graph, bare, tryReads), cost(graph, bare, reads), cost(graph, bare, writes)
      )
      let columns = [(row.0, 9), (row.1, 6), (row.2, 7)].map { pad(tenths($0.0), to: $0.1) }
      print(graph.name + String(repeating: " ", count: 24 - graph.name.count) + columns.joined())
    }
  }

  /// The first write of each region waits for the log: the median over regions, beyond a write that doesn't.
  /// - Parameter folder: on the storage that the log is to be on.
  func runFirstTouches(in folder: String) async throws {
    let path = folder + "/filter-cost-\(getpid()).log"
    let storage = try await RawFile.create(
      .path(path), byteCount: WriteIntentLog.byteCount, RawFile.Options(isReadOnly: false, direct: true), on: loop)
    unlink(path)
    let instant = Instant()
    let filter = try await CrashSafety.filter(instant, log: storage)
    let regions = Regions(byteCount: instant.byteCount)
    let bytes = [UInt8](repeating: 0, count: 4096)
    var times: [Duration] = []
    let clock = ContinuousClock()
    for region in regions.indices(of: ByteRange(offset: 0, length: instant.byteCount)) {
      let start = clock.now
      try await filter.write(bytes.span.bytes, at: regions.range(of: region).offset)
      times.append(start.duration(to: clock.now))
    }
    try await storage.close()
    print("first touch of a region: \(tenths(times.sorted()[times.count / 2] / .microseconds(1))) µs, log in \(folder)")
  }

  /// The difference of medians, for each filter.
  private func cost(
    _ graph: Graph, _ bare: any BlockDevice, _ body: (any BlockDevice) async throws -> Duration
  ) async throws -> Double {
    var (with, without): ([Duration], [Duration]) = ([], [])
    for _ in 0..<rounds {
      without.append(try await body(bare))
      with.append(try await body(graph.top))
    }
    let difference = (with.sorted()[rounds / 2] - without.sorted()[rounds / 2]) / .nanoseconds(1)
    return difference / Double(callCount * graph.count)
  }

  private func tryReads(_ device: any BlockDevice) async throws -> Duration {
    var bytes = [UInt8](repeating: 0, count: 4096)
    return try ContinuousClock().measure {
      for _ in 0..<callCount {
        var span = bytes.mutableSpan
        var raw = span.mutableBytes
        _ = try device.tryRead(into: &raw, at: 4096)
      }
    }
  }

  private func reads(_ device: any BlockDevice) async throws -> Duration {
    var bytes = [UInt8](repeating: 0, count: 4096)
    let clock = ContinuousClock()
    let start = clock.now
    for _ in 0..<callCount {
      var span = bytes.mutableSpan
      var raw = span.mutableBytes
      try await device.read(into: &raw, at: 4096)
    }
    return start.duration(to: clock.now)
  }

  private func writes(_ device: any BlockDevice) async throws -> Duration {
    let bytes = [UInt8](repeating: 0, count: 4096)
    let clock = ContinuousClock()
    let start = clock.now
    for _ in 0..<callCount { try await device.write(bytes.span.bytes, at: 4096) }
    return start.duration(to: clock.now)
  }

  private func tenths(_ value: Double) -> String { "\((value * 10).rounded() / 10)" }
  private func pad(_ text: String, to width: Int) -> String {
    String(repeating: " ", count: max(0, width - text.count)) + text
  }
}

let group = try EventLoopGroup(count: 1, workerCount: 1)
let loop = group.next()
let folder = CommandLine.arguments.count > 1 ? CommandLine.arguments[1] : "."
try await loop.run {
  let bench = Bench(loop)
  try await bench.run()
  try await bench.runFirstTouches(in: folder)
}
await group.shutdown()
