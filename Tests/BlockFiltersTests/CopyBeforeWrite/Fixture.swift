import BlockCore
import BlockFilters
import BlockTesting
import Buffers

/// A filter over a disk of sixteen grains of 0x11, with gates at the source and at the temp.
final class CopyBeforeWriteFixture: @unchecked Sendable {
  // Safe to hand over: confined to its loop.

  static let grain: UInt64 = 4096
  let loop = SteppedLoop(seed: 1)
  let memory = MemoryDevice(byteCount: 16 * 4096)
  let tempMemory: MemoryDevice
  let source: GateDevice
  let temp: GateDevice
  let pool = BufferPool()
  let store: FleecingStore
  let filter: CopyBeforeWrite
  private var failure: (any Error)?
  private var runningCount = 0

  init(
    memoryGrainCount: Int = 64, tempGrainCount: UInt64 = 64, space: FleecingSpace? = nil,
    _ options: CopyBeforeWrite.Options = CopyBeforeWrite.Options()
  ) {
    memory.image.write([UInt8](repeating: 0x11, count: 16 * 4096).span.bytes, at: 0)
    tempMemory = MemoryDevice(byteCount: tempGrainCount * 4096)
    source = GateDevice(memory)
    temp = GateDevice(tempMemory)
    store = FleecingStore(
      grainByteCount: Self.grain, memory: FleecingMemory(limitByteCount: memoryGrainCount * 4096), temp: temp,
      space: space, pool: pool, on: loop)
    filter = CopyBeforeWrite(source, store: store, options: options, pool: pool, on: loop)
  }

  /// Begins something on the loop.
  func start(_ body: @Sendable @escaping (CopyBeforeWriteFixture) async throws -> Void) {
    runningCount += 1
    loop.start { [self] in
      do { try await body(self) } catch { failure = failure ?? error }
      runningCount -= 1
    }
  }

  /// Runs until all that was started has ended, or `isDone` holds.
  func run(until isDone: () -> Bool = { false }) throws {
    try loop.run { runningCount == 0 || isDone() }
    if let failure { throw failure }
  }

  /// The same with one thing more.
  func run(_ body: @Sendable @escaping (CopyBeforeWriteFixture) async throws -> Void) throws {
    start(body)
    try run()
  }

  func write(_ byte: UInt8, grain: UInt64, count: UInt64 = 1) async throws {
    try await filter.writeBytes([UInt8](repeating: byte, count: Int(count * Self.grain)), at: grain * Self.grain)
  }

  func range(_ grains: Range<UInt64>) -> ByteRange {
    ByteRange(grains.lowerBound * Self.grain..<grains.upperBound * Self.grain)
  }
}
