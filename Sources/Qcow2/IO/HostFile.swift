import BlockCore
import Buffers

/// The file device under an image: takes requests of any alignment, grows the file, and latches.
///
/// Once a write of metadata or a flush has failed, what the file holds is no longer known: nothing more is written.
final class HostFile: @unchecked Sendable {
  // Safe to hand over: confined to the image's loop.

  /// The file grows in steps of an eighth of its size between these, so that a resize serves many allocations.
  static let growthStepByteCounts: ClosedRange<UInt64> = 1 << 20...64 << 20

  let device: any BlockDevice
  let pool: BufferPool
  let clusterByteCount: UInt64
  private(set) var isLatched = false
  /// What lies from here on was made by growing the file and never written: it reads as zeroes.
  private var pristineStart: UInt64
  // Where blocks are read, changed and written back, nobody else may write to them.
  private let blocks = RangeLock()
  private let growth = RangeLock()

  init(_ device: any BlockDevice, clusterByteCount: UInt64, pool: BufferPool) {
    self.device = device
    self.pool = pool
    self.clusterByteCount = clusterByteCount
    pristineStart = device.byteCount
  }

  var byteCount: UInt64 { device.byteCount }

  func checkLatch(_ operation: BlockError.Operation) throws(BlockError) {
    if isLatched { throw BlockError(.latchedFailed, operation) }
  }

  func latch() { isLatched = true }

  func isPristine(_ offset: UInt64) -> Bool { offset >= pristineStart }

  func tryRead(into buffer: inout MutableRawSpan, at offset: UInt64) throws(BlockError) -> Bool {
    try device.tryReadUnaligned(into: &buffer, at: offset)
  }

  nonisolated(nonsending)
    func read(into buffer: inout MutableRawSpan, at offset: UInt64) async throws(BlockError)
  {
    try await device.readUnaligned(into: &buffer, at: offset, pool: pool)
  }

  /// Writes guest data: a failure concerns nothing else.
  nonisolated(nonsending)
    func write(_ bytes: RawSpan, at offset: UInt64, options: WriteOptions = []) async throws(BlockError)
  {
    try checkLatch(.write)
    try await grow(toHold: offset + UInt64(bytes.byteCount))
    pristineStart = max(pristineStart, offset + UInt64(bytes.byteCount))
    let alignment = UInt64(device.limits.requestAlignment)
    guard alignment > 1 else { return try await writeAligned(bytes, at: offset, options: options) }
    let range = ByteRange(offset: offset, length: UInt64(bytes.byteCount))
    let aligned = range.aligned(to: alignment)
    let hold = await blocks.acquire(aligned, aligned == range ? .shared : .exclusive)
    defer { blocks.release(hold) }
    if aligned == range { return try await writeAligned(bytes, at: offset, options: options) }
    try await writeMerged(bytes, range, aligned, options)
  }

  nonisolated(nonsending)
    private func writeAligned(_ bytes: RawSpan, at offset: UInt64, options: WriteOptions) async throws(BlockError)
  {
    let limits = device.limits
    let step = max(limits.maximumTransferByteCount / limits.requestAlignment, 1) * limits.requestAlignment
    var done = 0
    while done < bytes.byteCount {
      let end = min(bytes.byteCount, done + step)
      try await device.write(bytes.extracting(done..<end), at: offset + UInt64(done), options: options)
      done = end
    }
  }

  /// Reads the blocks at both ends, puts the bytes between, and writes whole blocks.
  nonisolated(nonsending)
    private func writeMerged(
      _ bytes: RawSpan, _ range: ByteRange, _ aligned: ByteRange, _ options: WriteOptions
    ) async throws(BlockError)
  {
    let block = device.limits.requestAlignment
    let count = Int(aligned.length)
    var merged = pool.take(count)
    var all = merged.mutableBytes
    if range.offset > aligned.offset || count == block {
      var first = all.part(0..<block)
      try await device.readUnaligned(into: &first, at: aligned.offset, pool: pool)
    }
    if range.end < aligned.end, count > block {
      var last = all.part(count - block..<count)
      try await device.readUnaligned(into: &last, at: aligned.end - UInt64(block), pool: pool)
    }
    all.copy(from: bytes, at: Int(range.offset - aligned.offset))
    try await writeAligned(merged.bytes.extracting(0..<count), at: aligned.offset, options: options)
  }

  /// Writes metadata; a failure latches.
  nonisolated(nonsending)
    func writeTable(_ bytes: RawSpan, at offset: UInt64) async throws(BlockError)
  {
    do {
      try await write(bytes, at: offset)
    } catch {
      latch()
      throw error
    }
  }

  /// Makes everything written so far durable; a failure latches, as nobody can say what was lost.
  nonisolated(nonsending)
    func flush() async throws(BlockError)
  {
    try checkLatch(.flush)
    do {
      try await device.flush()
    } catch {
      latch()
      throw error
    }
  }

  /// Makes clusters read as zeroes that nothing refers to yet.
  nonisolated(nonsending)
    func zero(_ range: ByteRange) async throws(BlockError)
  {
    if isPristine(range.offset) { return }
    try checkLatch(.writeZeroes)
    pristineStart = max(pristineStart, range.end)
    let alignment = UInt64(device.limits.requestAlignment)
    if range.aligned(to: alignment) == range, range.end <= byteCount {
      return try await device.writeZeroes(range, options: [])
    }
    var zeroes = pool.take(Int(min(range.length, clusterByteCount)))
    var all = zeroes.mutableBytes
    all.zero()
    var offset = range.offset
    while offset < range.end {
      let count = Int(min(range.end - offset, clusterByteCount))
      try await write(zeroes.bytes.extracting(0..<count), at: offset)
      offset += UInt64(count)
    }
  }

  /// Gives storage back where the device can; what fails here only wastes space.
  nonisolated(nonsending)
    func giveBack(_ range: ByteRange) async
  {
    let alignment = UInt64(device.limits.requestAlignment)
    guard !isLatched, range.end <= byteCount, range.aligned(to: alignment) == range else { return }
    try? await device.discard(range)
  }

  /// Makes the file at least `end` bytes long, in larger steps than asked for.
  nonisolated(nonsending)
    func grow(toHold end: UInt64) async throws(BlockError)
  {
    if end <= byteCount { return }
    let hold = await growth.acquire(ByteRange(offset: 0, length: 1), .exclusive)
    defer { growth.release(hold) }
    guard end > byteCount else { return }
    try checkLatch(.resize)
    let bounds = Self.growthStepByteCounts
    let step = min(max(byteCount / 8, bounds.lowerBound), bounds.upperBound)
    let unit = max(UInt64(device.limits.requestAlignment), clusterByteCount)
    let size = ByteRange(offset: 0, length: max(end, byteCount + step)).aligned(to: unit).length
    do {
      try await device.resize(to: size)
    } catch  where error.kind == .notSupported {
      throw BlockError(.noSpace, .write, cause: "the device under the image has a fixed size")
    }
  }

  /// Cuts off what growing made and nobody uses.
  nonisolated(nonsending)
    func trim(to end: UInt64) async throws(BlockError)
  {
    let alignment = UInt64(device.limits.requestAlignment)
    let size = ByteRange(offset: 0, length: end).aligned(to: alignment).length
    guard size < byteCount, !isLatched else { return }
    do {
      try await device.resize(to: size)
    } catch  where error.kind == .notSupported {
      return
    }
  }
}
