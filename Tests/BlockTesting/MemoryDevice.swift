import BlockCore
import Buffers

/// A device in memory: the port at its plainest, strict about every rule of it.
package final class MemoryDevice: BlockDevice, @unchecked Sendable {
  // Safe to hand over: confined to its home loop, like every device.

  package struct Options: Sendable {
    package var limits = BlockLimits()
    package var isReadOnly = false
    /// False: every `tryRead` declines, as if nothing were at hand.
    package var answersTryRead = true
    /// False: zeroes are written as data, and `onlyIfFast` fails.
    package var zeroesFast = true
    /// With a seed, each `async` call first suspends 0 to 3 times, so that concurrent calls interleave in many ways.
    package var interleavingSeed: UInt64?

    package init() {}
  }

  /// What the device holds. A test may look and change it behind the device's back.
  package var image: SparseImage
  package let options: Options
  package private(set) var calls = CallCounts()
  package private(set) var isClosed = false
  private var running = 0
  private var interleaving: SeededRandom?

  package init(_ image: SparseImage, options: Options = Options()) {
    self.image = image
    self.options = options
    interleaving = options.interleavingSeed.map { SeededRandom(seed: $0) }
  }

  /// A device of `byteCount` zeroes, all holes, which tells its status in blocks of `blockByteCount`.
  package convenience init(byteCount: UInt64, blockByteCount: Int = 4096, options: Options = Options()) {
    self.init(SparseImage(byteCount: byteCount, blockByteCount: blockByteCount), options: options)
  }

  package var byteCount: UInt64 { image.byteCount }
  package var limits: BlockLimits { options.limits }
  package var isReadOnly: Bool { options.isReadOnly }

  package func tryRead(into buffer: inout MutableRawSpan, at offset: UInt64) throws(BlockError) -> Bool {
    calls.countTryRead()
    if isClosed { throw BlockError(.closed, .read) }
    try checkRequest(.read, at: offset, length: UInt64(buffer.byteCount))
    guard options.answersTryRead else { return false }
    image.read(into: &buffer, at: offset)
    return true
  }

  package func read(into buffer: inout MutableRawSpan, at offset: UInt64) async throws(BlockError) {
    try enter(.read)
    defer { running -= 1 }
    await suspend()
    try checkRequest(.read, at: offset, length: UInt64(buffer.byteCount))
    image.read(into: &buffer, at: offset)
  }

  package func write(_ bytes: RawSpan, at offset: UInt64, options: WriteOptions) async throws(BlockError) {
    try enter(.write, forced: options.contains(.forceUnitAccess))
    defer { running -= 1 }
    await suspend()
    try checkRequest(.write, at: offset, length: UInt64(bytes.byteCount))
    image.write(bytes, at: offset)
  }

  package func writeZeroes(_ range: ByteRange, options: ZeroOptions) async throws(BlockError) {
    try enter(.writeZeroes, forced: options.contains(.forceUnitAccess))
    defer { running -= 1 }
    await suspend()
    try checkRequest(.writeZeroes, at: range.offset, length: range.length)
    if self.options.zeroesFast {
      image.zero(range, unmap: options.contains(.mayUnmap))
    } else if options.contains(.onlyIfFast) {
      throw BlockError(.notFast, .writeZeroes, range)
    } else {
      writeZeroesAsData(range)
    }
  }

  package func discard(_ range: ByteRange) async throws(BlockError) {
    try enter(.discard)
    defer { running -= 1 }
    await suspend()
    try checkRequest(.discard, at: range.offset, length: range.length)
    if let whole = image.wholeBlocks(in: range) { image.zero(whole, unmap: true) }
  }

  package func flush() async throws(BlockError) {
    try enter(.flush)
    defer { running -= 1 }
    await suspend()
  }

  package func blockStatus(_ range: ByteRange, limit: Int) async throws(BlockError) -> [Extent] {
    try enter(.blockStatus)
    defer { running -= 1 }
    await suspend()
    try checkRequest(.blockStatus, at: range.offset, length: range.length)
    return image.status(of: range, limit: limit)
  }

  package func resize(to byteCount: UInt64) async throws(BlockError) {
    try enter(.resize)
    defer { running -= 1 }
    await suspend()
    if isReadOnly { throw BlockError(.readOnly, .resize) }
    guard byteCount % UInt64(limits.requestAlignment) == 0 else { throw BlockError(.misaligned, .resize) }
    image.resize(to: byteCount)
  }

  package func close() async throws(BlockError) {
    calls.count(.close)
    isClosed = true
    while running > 0 { await Task.yield() }
  }

  private func enter(_ operation: BlockError.Operation, forced: Bool = false) throws(BlockError) {
    calls.count(operation, forced: forced)
    if isClosed { throw BlockError(.closed, operation) }
    running += 1
  }

  private func suspend() async {
    for _ in 0..<(interleaving?.below(4) ?? 0) { await Task.yield() }
  }

  private func writeZeroesAsData(_ range: ByteRange) {
    let zeroes = [UInt8](repeating: 0, count: image.blockByteCount)
    var offset = range.offset
    while offset < range.end {
      let count = Int(min(UInt64(zeroes.count), range.end - offset))
      image.write(zeroes.span.bytes.extracting(0..<count), at: offset)
      offset += UInt64(count)
    }
  }
}
