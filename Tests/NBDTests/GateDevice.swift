import BlockCore
import Locks

/// Passes everything on to `next`, and holds some writes back until it is told to go on.
final class GateDevice: BlockDevice, @unchecked Sendable {
  // Safe to hand over: confined to its home loop, like every device; what others touch is locked.

  /// One element for each write that is held; ends with the last.
  let stopped: AsyncStream<Void>
  private let stop: AsyncStream<Void>.Continuation
  private let next: any BlockDevice
  private var stops: Set<Int>
  private var writeCount = 0
  private let held = Lock<[CheckedContinuation<Void, Never>]>([])
  private let through = Lock(false)

  /// - Parameter stops: the writes that are held, counted from 1.
  init(_ next: any BlockDevice, stops: Set<Int>) {
    self.next = next
    self.stops = stops
    (stopped, stop) = AsyncStream.makeStream()
  }

  /// Writes that are held now.
  var heldCount: Int { held.withLock { $0.count } }

  /// True once every write that is to be held has come.
  var isThrough: Bool { through.withLock { $0 } }

  /// Nobody writes any more: ``stopped`` ends.
  func end() { stop.finish() }

  /// Lets go what is held.
  func open() {
    let waiting = held.withLock { held in
      defer { held = [] }
      return held
    }
    for waiter in waiting { waiter.resume() }
  }

  var byteCount: UInt64 { next.byteCount }
  var limits: BlockLimits { next.limits }
  var isReadOnly: Bool { next.isReadOnly }

  func tryRead(into buffer: inout MutableRawSpan, at offset: UInt64) throws(BlockError) -> Bool {
    try next.tryRead(into: &buffer, at: offset)
  }

  nonisolated(nonsending)
    func read(into buffer: inout MutableRawSpan, at offset: UInt64) async throws(BlockError)
  {
    try await next.read(into: &buffer, at: offset)
  }

  nonisolated(nonsending)
    func write(_ bytes: RawSpan, at offset: UInt64, options: WriteOptions) async throws(BlockError)
  {
    writeCount += 1
    if stops.remove(writeCount) != nil {
      await withCheckedContinuation { continuation in
        held.withLock { $0.append(continuation) }
        stop.yield()
        guard stops.isEmpty else { return }
        through.withLock { $0 = true }
        stop.finish()
      }
    }
    try await next.write(bytes, at: offset, options: options)
  }

  nonisolated(nonsending)
    func writeZeroes(_ range: ByteRange, options: ZeroOptions) async throws(BlockError)
  {
    try await next.writeZeroes(range, options: options)
  }

  nonisolated(nonsending)
    func discard(_ range: ByteRange) async throws(BlockError)
  {
    try await next.discard(range)
  }

  nonisolated(nonsending)
    func flush() async throws(BlockError)
  {
    try await next.flush()
  }

  nonisolated(nonsending)
    func blockStatus(_ range: ByteRange, limit: Int) async throws(BlockError) -> [Extent]
  {
    try await next.blockStatus(range, limit: limit)
  }

  nonisolated(nonsending)
    func resize(to byteCount: UInt64) async throws(BlockError)
  {
    try await next.resize(to: byteCount)
  }

  nonisolated(nonsending)
    func close() async throws(BlockError)
  {
    try await next.close()
  }
}
