import BlockCore
import Buffers
import Descriptors
import EventLoops
import Glibc

/// A regular file or a block device as a run of bytes.
///
/// Nothing here blocks the loop for long: transfers go through the loop's backend, everything else to its threads for
/// blocking calls. The exceptions are short buffered writes that ``InPlaceWrites`` has reason to call quick.
///
/// **Latch.** Linux reports a failed write-back once and may drop the pages that it failed on, so after a failed
/// flush, or a write that failed otherwise than for want of space, what is stored is unknown: from then on
/// everything fails with `latchedFailed`.
///
/// **Length.** Only `resize` changes a file's length. Opening, reading and closing never do.
package final class RawFile: BlockDevice, @unchecked Sendable {
  // Safe to hand over: confined to `loop`.

  /// Memory kept for transfers whose caller's memory isn't aligned as O_DIRECT asks, for all files together.
  private static let bounceBuffers = BufferPool(maximumCachedByteCount: 8 << 20)

  let loop: EventLoop
  let file: FileDescriptor
  /// What blocking calls on the file may hang with.
  let lane: BlockingLane
  let isBlockDevice: Bool
  /// A block device's logical sector; 1 for a file.
  let sectorByteCount: Int
  /// Past the page cache. False although it was asked for where the file system or an odd file size rules it out.
  package let isDirect: Bool
  package let isReadOnly: Bool
  package let limits: BlockLimits
  package internal(set) var byteCount: UInt64
  private let memoryAlignment: Int
  private let lock: ImageLock?
  /// Let go of once the file is closed and its lock released, e.g. what tells others that the file is open.
  package var keptWhileOpen: (any Sendable)?
  /// Called as the file is closed: when everything is durable and while the lock is held still.
  package var onClosing: (nonisolated(nonsending) () async -> Void)?
  /// Told of what latches the file: a failed flush, or a write that failed otherwise than for want of space.
  package var onLatch: LatchReport?

  private enum Stage { case open, latched, closed }
  private var stage = Stage.open
  private var inFlightCount = 0
  private var idleWaiters: [UnsafeContinuation<Void, Never>] = []
  private var inPlaceWrites: InPlaceWrites
  /// Sizes change one after the other.
  let sizeLock = RangeLock()

  init(_ file: OpenedFile, _ options: Options, on loop: EventLoop) {
    self.loop = loop
    self.file = file.descriptor
    lane = file.lane
    isReadOnly = options.isReadOnly
    lock = options.lock
    isBlockDevice = file.isBlockDevice
    sectorByteCount = file.sectorByteCount
    isDirect = file.direct != nil
    byteCount = file.byteCount
    memoryAlignment = file.direct?.memory ?? 1
    inPlaceWrites = InPlaceWrites(isLocal: file.isOnLocalFileSystem && file.direct == nil)
    limits = BlockLimits(
      requestAlignment: file.direct?.offset ?? 1, preferredByteCount: max(file.preferredByteCount, pageByteCount))
  }

  // MARK: Stages

  /// Every request passes here first: nothing in an unfit stage, nothing off the loop.
  func checkStage(_ operation: BlockError.Operation) throws(BlockError) {
    loop.checkIsolated()
    switch stage {
    case .open: return
    case .latched: throw BlockError(.latchedFailed, operation)
    case .closed: throw BlockError(.closed, operation)
    }
  }

  /// Runs one request: `close` waits for it, its system errors become the port's, and it latches the file if it
  /// changes it and fails for anything but a harmless reason.
  func request<Result>(
    _ operation: BlockError.Operation, _ range: ByteRange?,
    _ body: () async throws(SystemError) -> Result
  ) async throws(BlockError) -> Result {
    inFlightCount += 1
    defer { endRequest() }
    do throws(SystemError) {
      return try await body()
    } catch {
      let failure = BlockError(errno: error.code, operation, range, cause: error.detail)
      if Self.leavesStorageUnknown(operation, failure.kind), stage == .open {
        stage = .latched
        onLatch?(failure)
      }
      throw failure
    }
  }

  private static func leavesStorageUnknown(_ operation: BlockError.Operation, _ kind: BlockError.Kind) -> Bool {
    switch operation {
    case .flush: true
    case .write, .writeZeroes:
      if case .io = kind { true } else { false }
    case .open, .read, .discard, .blockStatus, .resize, .close: false
    }
  }

  private func endRequest() {
    inFlightCount -= 1
    guard inFlightCount == 0 else { return }
    let waiters = idleWaiters
    idleWaiters = []
    for waiter in waiters { waiter.resume() }
  }

  // MARK: Transfers

  package func tryRead(into buffer: inout MutableRawSpan, at offset: UInt64) throws(BlockError) -> Bool {
    try checkStage(.read)
    try checkRequest(.read, at: offset, length: UInt64(buffer.byteCount))
    // A direct read always waits for the device.
    if isDirect { return buffer.byteCount == 0 }
    return file.tryRead(into: &buffer, at: offset)
  }

  package func read(into buffer: inout MutableRawSpan, at offset: UInt64) async throws(BlockError) {
    let range = try checkTransfer(.read, at: offset, byteCount: buffer.byteCount)
    guard !range.isEmpty else { return }
    let count: Int
    // The kernel reads whole blocks past the cache, and stops where the file ends amid the last one.
    let whole = range.aligned(to: UInt64(limits.requestAlignment))
    if whole != range || needsBounce(buffer.withUnsafeMutableBytes { UnsafeRawPointer($0.baseAddress) }) {
      var bounce = Self.bounceBuffers.take(Int(whole.length))
      count = try await readAll(&bounce, whole)
      buffer.copy(from: bounce.bytes.extracting(0..<buffer.byteCount))
    } else {
      count = try await readAll(into: &buffer, range)
    }
    guard count >= buffer.byteCount else {
      throw BlockError(.io(errno: EIO), .read, range, cause: "the file has become shorter than it was")
    }
  }

  private func readAll(_ bounce: inout PageBuffer, _ range: ByteRange) async throws(BlockError) -> Int {
    var bytes = bounce.mutableBytes
    var part = bytes.part(0..<Int(range.length))
    return try await readAll(into: &part, range)
  }

  private func readAll(into buffer: inout MutableRawSpan, _ range: ByteRange) async throws(BlockError) -> Int {
    inFlightCount += 1
    defer { endRequest() }
    do throws(SystemError) {
      return try await loop.read(file, into: &buffer, at: range.offset, unit: limits.requestAlignment, in: lane)
    } catch {
      throw BlockError(errno: error.code, .read, range, cause: error.detail)
    }
  }

  package func write(_ bytes: RawSpan, at offset: UInt64, options: WriteOptions) async throws(BlockError) {
    let range = try checkTransfer(.write, at: offset, byteCount: bytes.byteCount)
    let durable = options.contains(.forceUnitAccess)
    guard !range.isEmpty else { return }
    if needsBounce(bytes.withUnsafeBytes { $0.baseAddress }) {
      var bounce = Self.bounceBuffers.take(bytes.byteCount)
      var all = bounce.mutableBytes
      all.copy(from: bytes)
      try await writeAll(bounce.bytes.extracting(0..<bytes.byteCount), range, durable)
    } else {
      try await writeAll(bytes, range, durable)
    }
  }

  private func writeAll(_ bytes: RawSpan, _ range: ByteRange, _ durable: Bool) async throws(BlockError) {
    if !durable, writeInPlace(bytes, range) { return }
    try await request(.write, range) { () async throws(SystemError) in
      try await loop.write(file, bytes, at: range.offset, durable: durable, in: lane)
    }
  }

  /// Writes at once, where that is known to be quick. False if the bytes remain to be written.
  private func writeInPlace(_ bytes: RawSpan, _ range: ByteRange) -> Bool {
    guard inFlightCount == 0 else { return false }
    let start = MonotonicTime.now
    guard inPlaceWrites.allows(byteCount: bytes.byteCount, now: start) else { return false }
    defer { inPlaceWrites.took(from: start, to: .now) }
    return file.writeHere(bytes, at: range.offset)
  }

  private func checkTransfer(
    _ operation: BlockError.Operation, at offset: UInt64, byteCount: Int
  ) throws(BlockError) -> ByteRange {
    try checkStage(operation)
    try checkRequest(operation, at: offset, length: UInt64(byteCount))
    let range = ByteRange(offset: offset, length: UInt64(byteCount))
    guard byteCount <= limits.maximumTransferByteCount else {
      throw BlockError(.outOfRange, operation, range, cause: "longer than one request may be")
    }
    return range
  }

  private func needsBounce(_ base: UnsafeRawPointer?) -> Bool {
    isDirect && UInt(bitPattern: base) % UInt(memoryAlignment) != 0
  }

  // MARK: Durability and the end

  package func flush() async throws(BlockError) {
    try checkStage(.flush)
    guard !isReadOnly else { return }
    try await request(.flush, nil) { () async throws(SystemError) in try await loop.fdatasync(file, in: lane) }
  }

  package func close() async throws(BlockError) {
    loop.checkIsolated()
    guard stage != .closed else { return }
    let wasLatched = stage == .latched
    stage = .closed
    while inFlightCount > 0 {
      await withUnsafeContinuation { waiter in
        // Others may run before this closure does, where the caller isn't on an actor.
        if inFlightCount > 0 { idleWaiters.append(waiter) } else { waiter.resume() }
      }
    }
    var failure: BlockError?
    if !isReadOnly, !wasLatched {
      do throws(SystemError) { try await loop.fdatasync(file, in: lane) } catch {
        let error = BlockError(errno: error.code, .close, cause: "the last flush failed")
        failure = error
        onLatch?(error)
      }
    }
    if failure == nil, !wasLatched { await onClosing?() }
    onClosing = nil
    await loop.blocking(in: lane) { [file, lock] in
      lock?.release(on: file)
      file.close()
    }
    keptWhileOpen = nil
    if let failure { throw failure }
  }
}
