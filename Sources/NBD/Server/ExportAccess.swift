import BlockCore
import Buffers

/// An export's way to its device: splits what is too long for it, and reads, changes and writes back the blocks that
/// a request covers in part, as clients are told that they may ask for any range.
///
/// Confined to the device's loop and shared by all connections. **One read-modify-write lock a device**: every export
/// of a device is given the same lock, or two of them change one block at a time and one of the changes is lost.
final class ExportAccess: @unchecked Sendable {
  // Safe to hand over: confined to the device's loop.

  let device: any BlockDevice
  /// The device, if it can hand over its bytes uncopied.
  let pipeSource: (any PipeSource)?
  private let alignment: UInt64
  private let step: UInt64
  // Requests for whole blocks share a range; a request that changes a part of a block has it alone.
  private let blocks: RangeLock
  private let pool: BufferPool

  init(_ device: any BlockDevice, blocks: RangeLock, pool: BufferPool = BufferPool(maximumCachedByteCount: 4 << 20)) {
    self.device = device
    self.blocks = blocks
    self.pool = pool
    alignment = UInt64(device.limits.requestAlignment)
    pipeSource = device as? any PipeSource
    step = max(alignment, UInt64(device.limits.maximumTransferByteCount) / alignment * alignment)
  }

  /// Bytes of scratch memory that are out; 0 when nothing is under way.
  var lentByteCount: Int { pool.lentByteCount }

  @inline(__always)
  func isAligned(_ offset: UInt64, _ length: UInt64) -> Bool {
    alignment == 1 || (offset % alignment == 0 && length % alignment == 0)
  }

  /// Reads at once or not at all.
  @inline(__always)
  func tryRead(into buffer: inout MutableRawSpan, at offset: UInt64) throws(BlockError) -> Bool {
    let length = UInt64(buffer.byteCount)
    guard isAligned(offset, length), length <= step else { return false }
    return try device.tryRead(into: &buffer, at: offset)
  }

  nonisolated(nonsending)
    func read(into buffer: inout MutableRawSpan, at offset: UInt64) async throws(BlockError)
  {
    guard isAligned(offset, UInt64(buffer.byteCount)) else { return try await readUnaligned(into: &buffer, at: offset) }
    var done = 0
    while done < buffer.byteCount {
      let count = min(buffer.byteCount - done, Int(step))
      var part = buffer.part(done..<done + count)
      try await device.read(into: &part, at: offset + UInt64(done))
      done += count
    }
  }

  nonisolated(nonsending)
    private func readUnaligned(into buffer: inout MutableRawSpan, at offset: UInt64) async throws(BlockError)
  {
    let range = ByteRange(offset: offset, length: UInt64(buffer.byteCount))
    let whole = range.aligned(to: alignment)
    var scratch = pool.take(Int(min(whole.length, step)))
    var position = whole.offset
    while position < whole.end {
      let part = ByteRange(position..<min(whole.end, position + step))
      var target = scratch.mutableBytes
      var span = target.part(0..<Int(part.length))
      try await device.read(into: &span, at: part.offset)
      if let wanted = part.intersection(range) {
        let start = Int(wanted.offset - part.offset)
        buffer.copy(
          from: scratch.bytes.extracting(start..<start + Int(wanted.length)), at: Int(wanted.offset - offset))
      }
      position = part.end
    }
  }

  // MARK: Changes

  nonisolated(nonsending)
    func write(_ bytes: RawSpan, at offset: UInt64, options: WriteOptions) async throws(BlockError)
  {
    let range = ByteRange(offset: offset, length: UInt64(bytes.byteCount))
    guard alignment > 1 else { return try await writeWhole(bytes, range, options) }
    if isAligned(range.offset, range.length) {
      let hold = await blocks.acquire(range, .shared)
      defer { blocks.release(hold) }
      return try await writeWhole(bytes, range, options)
    }
    let hold = await blocks.acquire(range.aligned(to: alignment), .exclusive)
    defer { blocks.release(hold) }
    for part in parts(of: range) {
      let start = Int(part.offset - offset)
      let source = bytes.extracting(start..<start + Int(part.length))
      if isAligned(part.offset, part.length) {
        try await writeWhole(source, part, options)
      } else {
        try await change(part, options) { $0.copy(from: source, at: $1) }
      }
    }
  }

  nonisolated(nonsending)
    private func writeWhole(_ bytes: RawSpan, _ range: ByteRange, _ options: WriteOptions) async throws(BlockError)
  {
    var done: UInt64 = 0
    while done < range.length {
      let count = min(range.length - done, step)
      let part = bytes.extracting(Int(done)..<Int(done + count))
      try await device.write(part, at: range.offset + done, options: options)
      done += count
    }
  }

  nonisolated(nonsending)
    func writeZeroes(_ range: ByteRange, options: ZeroOptions) async throws(BlockError)
  {
    guard alignment > 1 else { return try await device.writeZeroes(range, options: options) }
    if isAligned(range.offset, range.length) {
      let hold = await blocks.acquire(range, .shared)
      defer { blocks.release(hold) }
      return try await device.writeZeroes(range, options: options)
    }
    // The parts of blocks at its ends have to be written as data.
    if options.contains(.onlyIfFast) { throw BlockError(.notFast, .writeZeroes, range) }
    let hold = await blocks.acquire(range.aligned(to: alignment), .exclusive)
    defer { blocks.release(hold) }
    let writeOptions: WriteOptions = options.contains(.forceUnitAccess) ? .forceUnitAccess : []
    for part in parts(of: range) {
      if isAligned(part.offset, part.length) {
        try await device.writeZeroes(part, options: options)
      } else {
        try await change(part, writeOptions) { $0.zero($1..<$1 + Int(part.length)) }
      }
    }
  }

  /// Gives back the whole blocks in the range; to leave out the rest is allowed (proto.md, NBD_CMD_TRIM).
  nonisolated(nonsending)
    func discard(_ range: ByteRange) async throws(BlockError)
  {
    let start = (range.offset + alignment - 1) / alignment * alignment
    let end = range.end / alignment * alignment
    guard start < end else { return }
    let whole = ByteRange(start..<end)
    let hold = alignment > 1 ? await blocks.acquire(whole, .shared) : nil
    defer { if let hold { blocks.release(hold) } }
    do throws(BlockError) {
      try await device.discard(whole)
    } catch {
      // A hint that the storage has no use for.
      if error.kind != .notSupported { throw error }
    }
  }

  /// The part of a first block, the whole blocks, and the part of a last block.
  private func parts(of range: ByteRange) -> [ByteRange] {
    let firstEnd = min(range.end, ByteRange(offset: range.offset, length: 1).aligned(to: alignment).end)
    let head = range.offset % alignment == 0 ? range.offset : firstEnd
    let tail = max(head, range.end / alignment * alignment)
    return [range.offset..<head, head..<tail, tail..<max(tail, range.end)]
      .filter { !$0.isEmpty }.map { ByteRange($0) }
  }

  /// Changes a part of one block: `body` gets the block's bytes and where the part begins in them.
  nonisolated(nonsending)
    private func change(
      _ part: ByteRange, _ options: WriteOptions, _ body: (inout MutableRawSpan, Int) -> Void
    ) async throws(BlockError)
  {
    let whole = part.aligned(to: alignment)
    var scratch = pool.take(Int(whole.length))
    var target = scratch.mutableBytes
    var block = target.part(0..<Int(whole.length))
    try await device.read(into: &block, at: whole.offset)
    body(&block, Int(part.offset - whole.offset))
    try await device.write(scratch.bytes.extracting(0..<Int(whole.length)), at: whole.offset, options: options)
  }

  // MARK: Status

  /// What a context says from `range.offset` on, see ``ExportContext``; the range needn't be aligned.
  nonisolated(nonsending)
    func extents(
      of context: any ExportContext, in range: ByteRange, limit: Int
    ) async throws(BlockError) -> [ContextExtent]
  {
    let whole = ByteRange(range.offset / alignment * alignment..<range.end).aligned(to: alignment)
    var result: [ContextExtent] = []
    // Bytes of the answer that lie before the range, and that it may have in all.
    var skipped = range.offset - whole.offset
    var left = range.length
    for extent in try await context.extents(in: whole, limit: limit, of: device) {
      let cut = min(skipped, extent.length)
      skipped -= cut
      let length = min(left, extent.length - cut)
      left -= length
      if length > 0 { result.append(ContextExtent(length: length, flags: extent.flags)) }
    }
    if result.isEmpty { throw BlockError(.corrupt("no answer from \(context.name)"), .blockStatus, range) }
    return result
  }
}
