/// What a device asks of requests and tells about itself. Fixed while it is open, but for ``BlockDevice/byteCount``.
package struct BlockLimits: Hashable, Sendable {
  /// Offsets and lengths of every request must be multiples of this (1, or what O_DIRECT needs).
  package var requestAlignment: Int
  /// The size the device works best with: a file system block, a cluster.
  package var preferredByteCount: Int
  /// Larger requests are the caller's to split.
  package var maximumTransferByteCount: Int
  /// A resize is to a multiple of this. Like ``requestAlignment`` but for a filter that takes any request.
  package var lengthAlignment: Int { alignmentBelow ?? requestAlignment }
  private var alignmentBelow: Int?

  /// - Parameter lengthAlignment: nil: that of the requests.
  package init(
    requestAlignment: Int = 1, preferredByteCount: Int = 4096, maximumTransferByteCount: Int = 32 << 20,
    lengthAlignment: Int? = nil
  ) {
    self.requestAlignment = requestAlignment
    self.preferredByteCount = preferredByteCount
    self.maximumTransferByteCount = maximumTransferByteCount
    alignmentBelow = lengthAlignment
  }
}

package struct WriteOptions: OptionSet, Hashable, Sendable {
  package let rawValue: UInt8
  package init(rawValue: UInt8) { self.rawValue = rawValue }
  /// Durable before the call returns, with its metadata (FUA).
  package static let forceUnitAccess = WriteOptions(rawValue: 1)
}

package struct ZeroOptions: OptionSet, Hashable, Sendable {
  package let rawValue: UInt8
  package init(rawValue: UInt8) { self.rawValue = rawValue }
  /// Durable before the call returns, with its metadata (FUA).
  package static let forceUnitAccess = ZeroOptions(rawValue: 1)
  /// The storage may be given back. Without it the range stays allocated.
  package static let mayUnmap = ZeroOptions(rawValue: 2)
  /// Fail with `notFast`, having written nothing, rather than write zeroes as data.
  package static let onlyIfFast = ZeroOptions(rawValue: 4)
}

/// The port that every layer of the block graph has above it: a run of bytes that is read, written and asked about.
///
/// **One loop.** A device is confined to its home loop: every call comes from there, and an `async` call resumes
/// there. `Sendable` says only that a reference may be handed to that loop. Calls may interleave at each suspension;
/// a device orders what its own tables need and nothing else: of overlapping writes in flight either may win,
/// sector by sector. Callers that need more hold a ``RangeLock``.
///
/// **Requests** lie inside `0..<byteCount`, are aligned to `limits.requestAlignment`, and are at most
/// `limits.maximumTransferByteCount` long (reads and writes only). An empty request succeeds and does nothing.
/// A violation is an error (`outOfRange`, `misaligned`, and `notSupported` for one that is too long), never a trap.
/// Reads and writes are whole: a short transfer below is continued or fails.
///
/// **A device may end amid a block**: its `byteCount` is then no multiple of `limits.requestAlignment`. A read or a
/// status of the last block ends where the device does. A change can't: that block changes only after a resize to whole
/// blocks (`limits.lengthAlignment`). So such a device lies only beneath formats that state their own length and resize
/// it.
///
/// **Errors.** A failed write leaves the range in an unknown state. A device that no longer knows its own metadata
/// latches: from then on everything fails with `latchedFailed`.
///
/// **Durability.** What was answered before a successful `flush` began is durable after it.
///
/// **Cancellation** of the task doesn't tear a request: one that reached the device runs to its end.
package protocol BlockDevice: AnyObject, Sendable {
  var byteCount: UInt64 { get }
  var limits: BlockLimits { get }
  var isReadOnly: Bool { get }

  /// Reads without waiting, all or nothing: false, with no effect, if any byte isn't at hand.
  /// What `buffer` holds after false is undefined.
  func tryRead(into buffer: inout MutableRawSpan, at offset: UInt64) throws(BlockError) -> Bool

  /// Fills `buffer` from the bytes at `offset`.
  func read(into buffer: inout MutableRawSpan, at offset: UInt64) async throws(BlockError)

  /// Stores `bytes` at `offset`.
  func write(_ bytes: RawSpan, at offset: UInt64, options: WriteOptions) async throws(BlockError)

  /// Makes the range read as zeroes, in the cheapest way that `options` allow.
  func writeZeroes(_ range: ByteRange, options: ZeroOptions) async throws(BlockError)

  /// The contents of the range no longer matter; its storage may be given back.
  /// What it reads as afterwards is what `blockStatus` says of it.
  func discard(_ range: ByteRange) async throws(BlockError)

  /// Everything answered so far becomes durable, or the call fails.
  func flush() async throws(BlockError)

  /// Extents in order, without gaps, from `range.offset` on, at least one (unless `range` is empty) and at most
  /// `limit`; the last one ends at or before `range.end`. Neighbours that say the same are joined.
  /// May answer for less than the range: ask again from the last one's end.
  func blockStatus(_ range: ByteRange, limit: Int) async throws(BlockError) -> [Extent]

  /// Changes `byteCount` to a multiple of `limits.lengthAlignment`. New bytes read as zeroes. `notSupported` where the
  /// size is fixed.
  func resize(to byteCount: UInt64) async throws(BlockError)

  /// Ends the use of the device: waits for requests in flight, flushes what a writable device holds back, gives up
  /// locks and descriptors, and closes the devices it owns below. Idempotent. Later calls fail with `closed`.
  func close() async throws(BlockError)
}

extension BlockDevice {
  /// Throws unless a request for `length` bytes at `offset` is allowed.
  package func checkRequest(
    _ operation: BlockError.Operation, at offset: UInt64, length: UInt64
  ) throws(BlockError) {
    let (end, overflow) = offset.addingReportingOverflow(length)
    if overflow { throw BlockError(.outOfRange, operation) }
    let range = ByteRange(offset: offset, length: length)
    if end > byteCount { throw BlockError(.outOfRange, operation, range) }
    let alignment = UInt64(limits.requestAlignment)
    let mayEndAmidBlock = end == byteCount && (operation == .read || operation == .blockStatus)
    if alignment > 1, offset % alignment != 0 || (length % alignment != 0 && !mayEndAmidBlock) {
      throw BlockError(.misaligned, operation, range)
    }
    if operation == .read || operation == .write, length > UInt64(limits.maximumTransferByteCount) {
      throw BlockError(
        .notSupported, operation, range, cause: "at most \(limits.maximumTransferByteCount) bytes at once")
    }
    if isReadOnly, operation == .write || operation == .writeZeroes || operation == .discard {
      throw BlockError(.readOnly, operation, range)
    }
  }

  package func write(_ bytes: RawSpan, at offset: UInt64) async throws(BlockError) {
    try await write(bytes, at: offset, options: [])
  }
}
