import BlockCore
import Buffers

/// Takes any range for a device that wants alignment: reads, changes and writes back the blocks that a request covers in
/// part, and splits what is too long for one request.
///
/// **One for each file that is written**, directly above it, whoever uses the file: two of them would change one block
/// at a time and lose one of the changes.
///
/// A device may end amid a block. That block can be read; it is changed after a resize.
package final class AlignedAccess: BlockFilter, @unchecked Sendable {
  // Safe to hand over: confined to its loop, like every device.

  package let next: any BlockDevice
  package let limits: BlockLimits
  private let alignment: UInt64
  /// The longest request to `next`, in whole blocks.
  private let step: UInt64
  // Changes of whole blocks share a range; a change of a part of a block has it alone.
  private let changes = RangeLock()
  private let pool: BufferPool
  private var isClosed = false

  package init(_ next: any BlockDevice, pool: BufferPool = BufferPool(maximumCachedByteCount: 4 << 20)) {
    self.next = next
    self.pool = pool
    let below = next.limits
    alignment = UInt64(below.requestAlignment)
    step = max(alignment, UInt64(below.maximumTransferByteCount) / alignment * alignment)
    limits = BlockLimits(
      preferredByteCount: max(below.preferredByteCount, below.requestAlignment),
      lengthAlignment: below.lengthAlignment)
  }

  /// `device`, with an access before it if it doesn't take any range as it is.
  package static func over(_ device: any BlockDevice, pool: BufferPool? = nil) -> any BlockDevice {
    let limits = device.limits
    let takesAll =
      limits.requestAlignment == 1 && limits.maximumTransferByteCount >= BlockLimits().maximumTransferByteCount
    return takesAll ? device : pool.map { AlignedAccess(device, pool: $0) } ?? AlignedAccess(device)
  }

  /// The longest change whose blocks are put together in memory and written at once.
  private static let maximumMergedByteCount: UInt64 = 2 << 20

  /// The blocks of a range, up to the device's end.
  private func blocks(of range: ByteRange) -> ByteRange {
    let whole = range.aligned(to: alignment)
    return whole.end <= next.byteCount ? whole : ByteRange(whole.offset..<next.byteCount)
  }

  /// Bytes of scratch memory that are out; 0 when nothing is under way.
  package var lentByteCount: Int { pool.lentByteCount }

  @inline(__always)
  private func isAligned(_ offset: UInt64, _ length: UInt64) -> Bool {
    alignment == 1 || (offset % alignment == 0 && length % alignment == 0)
  }

  /// For what doesn't reach `next`.
  private func checkOpen(_ operation: BlockError.Operation) throws(BlockError) {
    if isClosed { throw BlockError(.closed, operation) }
  }

  // MARK: Reads

  package func tryRead(into buffer: inout MutableRawSpan, at offset: UInt64) throws(BlockError) -> Bool {
    let length = UInt64(buffer.byteCount)
    guard isAligned(offset, length), length <= step else {
      try checkOpen(.read)
      try checkRequest(.read, at: offset, length: length)
      return false
    }
    return try next.tryRead(into: &buffer, at: offset)
  }

  package func read(into buffer: inout MutableRawSpan, at offset: UInt64) async throws(BlockError) {
    try checkRequest(.read, at: offset, length: UInt64(buffer.byteCount))
    guard isAligned(offset, UInt64(buffer.byteCount)) else { return try await readUnaligned(into: &buffer, at: offset) }
    var done = 0
    repeat {
      let count = min(buffer.byteCount - done, Int(step))
      var part = buffer.part(done..<done + count)
      try await next.read(into: &part, at: offset + UInt64(done))
      done += count
    } while done < buffer.byteCount
  }

  private func readUnaligned(into buffer: inout MutableRawSpan, at offset: UInt64) async throws(BlockError) {
    let range = ByteRange(offset: offset, length: UInt64(buffer.byteCount))
    let whole = blocks(of: range)
    var scratch = pool.take(Int(min(whole.length, step)))
    var position = whole.offset
    while position < whole.end {
      let part = ByteRange(position..<min(whole.end, position + step))
      var target = scratch.mutableBytes
      var span = target.part(0..<Int(part.length))
      try await next.read(into: &span, at: part.offset)
      if let wanted = part.intersection(range) {
        let start = Int(wanted.offset - part.offset)
        buffer.copy(
          from: scratch.bytes.extracting(start..<start + Int(wanted.length)), at: Int(wanted.offset - offset))
      }
      position = part.end
    }
  }

  /// Asks for whole blocks; what lies outside of the range is cut off.
  package func blockStatus(_ range: ByteRange, limit: Int) async throws(BlockError) -> [Extent] {
    try checkRequest(.blockStatus, at: range.offset, length: range.length)
    guard !isAligned(range.offset, range.length) else { return try await next.blockStatus(range, limit: limit) }
    let extents = try await next.blockStatus(blocks(of: range), limit: limit)
    return extents.compactMap { extent in
      extent.range.intersection(range).map { Extent(range: $0, status: extent.status, depth: extent.depth) }
    }
  }

  // MARK: Changes

  package func write(_ bytes: RawSpan, at offset: UInt64, options: WriteOptions) async throws(BlockError) {
    try checkRequest(.write, at: offset, length: UInt64(bytes.byteCount))
    let range = ByteRange(offset: offset, length: UInt64(bytes.byteCount))
    guard alignment > 1 else { return try await writeWhole(bytes, range, options) }
    let isWhole = isAligned(range.offset, range.length)
    let hold = await changes.acquire(range.aligned(to: alignment), isWhole ? .shared : .exclusive)
    defer { changes.release(hold) }
    if isWhole { return try await writeWhole(bytes, range, options) }
    if range.isEmpty { return try checkOpen(.write) }
    if range.aligned(to: alignment).length <= min(step, Self.maximumMergedByteCount) {
      return try await changeBlocks(of: range, options) { $0.copy(from: bytes, at: $1) }
    }
    for part in parts(of: range) {
      let start = Int(part.offset - offset)
      let source = bytes.extracting(start..<start + Int(part.length))
      if isAligned(part.offset, part.length) {
        try await writeWhole(source, part, options)
      } else {
        try await changeBlocks(of: part, options) { $0.copy(from: source, at: $1) }
      }
    }
  }

  private func writeWhole(_ bytes: RawSpan, _ range: ByteRange, _ options: WriteOptions) async throws(BlockError) {
    var done: UInt64 = 0
    repeat {
      let count = min(range.length - done, step)
      let part = bytes.extracting(Int(done)..<Int(done + count))
      try await next.write(part, at: range.offset + done, options: options)
      done += count
    } while done < range.length
  }

  /// Parts of blocks at the range's ends have to be written as data, which isn't fast.
  package func writeZeroes(_ range: ByteRange, options: ZeroOptions) async throws(BlockError) {
    try checkRequest(.writeZeroes, at: range.offset, length: range.length)
    guard alignment > 1 else { return try await next.writeZeroes(range, options: options) }
    let isWhole = isAligned(range.offset, range.length)
    if !isWhole, options.contains(.onlyIfFast) { throw BlockError(.notFast, .writeZeroes, range) }
    let hold = await changes.acquire(range.aligned(to: alignment), isWhole ? .shared : .exclusive)
    defer { changes.release(hold) }
    if isWhole { return try await next.writeZeroes(range, options: options) }
    let writeOptions: WriteOptions = options.contains(.forceUnitAccess) ? .forceUnitAccess : []
    for part in parts(of: range) {
      if isAligned(part.offset, part.length) {
        try await next.writeZeroes(part, options: options)
      } else {
        try await changeBlocks(of: part, writeOptions) { $0.zero($1..<$1 + Int(part.length)) }
      }
    }
  }

  /// Gives back the whole blocks in the range; the rest keeps its contents.
  package func discard(_ range: ByteRange) async throws(BlockError) {
    try checkRequest(.discard, at: range.offset, length: range.length)
    guard alignment > 1, !range.isEmpty else { return try await next.discard(range) }
    let start = (range.offset + alignment - 1) / alignment * alignment
    let end = range.end / alignment * alignment
    guard start < end else { return try checkOpen(.discard) }
    let whole = ByteRange(start..<end)
    let hold = await changes.acquire(whole, .shared)
    defer { changes.release(hold) }
    try await next.discard(whole)
  }

  /// What is left for it is a resize.
  package func change(
    _ kind: BlockChange, _ range: ByteRange,
    _ perform: (ByteRange) async throws(BlockError) -> Void
  ) async throws(BlockError) {
    try checkOpen(kind.operation)
    try await perform(range)
  }

  package func close() async throws(BlockError) {
    isClosed = true
    try await next.close()
  }

  /// The part of a first block, the whole blocks, and the part of a last block.
  private func parts(of range: ByteRange) -> [ByteRange] {
    let firstEnd = min(range.end, ByteRange(offset: range.offset, length: 1).aligned(to: alignment).end)
    let head = range.offset % alignment == 0 ? range.offset : firstEnd
    let tail = max(head, range.end / alignment * alignment)
    return [range.offset..<head, head..<tail, tail..<max(tail, range.end)]
      .filter { !$0.isEmpty }.map { ByteRange($0) }
  }

  /// Reads the first and the last block of a range, has its bytes changed, and writes all blocks at once: `body` gets
  /// them and where the range begins in them.
  private func changeBlocks(
    of range: ByteRange, _ options: WriteOptions, _ body: (inout MutableRawSpan, Int) -> Void
  ) async throws(BlockError) {
    let whole = range.aligned(to: alignment)
    let (count, block) = (Int(whole.length), Int(alignment))
    var scratch = pool.take(count)
    var target = scratch.mutableBytes
    if range.offset > whole.offset || count == block {
      var first = target.part(0..<block)
      try await next.read(into: &first, at: whole.offset)
    }
    if range.end < whole.end, count > block {
      var last = target.part(count - block..<count)
      try await next.read(into: &last, at: whole.end - alignment)
    }
    var all = target.part(0..<count)
    body(&all, Int(range.offset - whole.offset))
    try await next.write(scratch.bytes.extracting(0..<count), at: whole.offset, options: options)
  }
}

/// Where the device below can do it; one that wants alignment can't.
extension AlignedAccess: PipeSource {
  package var fillsPipes: Bool { alignment == 1 && (next as? any PipeSource)?.fillsPipes ?? false }

  package func fill(pipe descriptor: Int32, from range: ByteRange) async throws(BlockError) -> Int {
    guard let source = next as? any PipeSource else {
      throw BlockError(.notSupported, .read, range, cause: "the device below fills no pipes")
    }
    return try await source.fill(pipe: descriptor, from: range)
  }
}
