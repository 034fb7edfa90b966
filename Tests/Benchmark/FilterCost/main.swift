import BlockCore
import BlockFilters
import EventLoops

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
try await loop.run { try await Bench(loop).run() }
await group.shutdown()
