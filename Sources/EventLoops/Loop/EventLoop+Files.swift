import CLiburing
import Descriptors
import Glibc

/// How `fallocate` changes a range (its mode bits).
package struct AllocationMode: OptionSet, Hashable, Sendable {
  package let rawValue: Int32
  package init(rawValue: Int32) { self.rawValue = rawValue }

  /// Allocates what isn't yet, reading as zeroes; without `keepSize` a range past the end grows the file.
  package static let allocate: AllocationMode = []
  package static let keepSize = AllocationMode(rawValue: FALLOC_FL_KEEP_SIZE)
  /// Deallocates the range; goes with `keepSize`.
  package static let punchHole = AllocationMode(rawValue: FALLOC_FL_PUNCH_HOLE)
  /// Makes the range read as zeroes and keeps it allocated.
  package static let zeroRange = AllocationMode(rawValue: FALLOC_FL_ZERO_RANGE)
}

/// File I/O. Transfers are whole: short ones are continued, interrupted ones repeated. Memory must stay put until the
/// call returns, which the span's owner sees to. Where a
/// thread does it, it is one of the `lane` that is given. None of it blocks the loop, nor is it cut off by cancellation.
extension EventLoop {
  /// Fills `buffer` from the file's bytes at `offset`.
  /// - Parameter unit: a short read is continued at multiples of this only, as O_DIRECT asks: the file ends elsewhere.
  /// - Returns: the bytes read, fewer than asked only where the file ends.
  package func read(
    _ file: FileDescriptor, into buffer: inout MutableRawSpan, at offset: UInt64, unit: Int = 1,
    in lane: BlockingLane = .shared
  ) async throws(SystemError) -> Int {
    let count = buffer.byteCount
    guard count > 0, let base = buffer.withUnsafeMutableBytes({ $0.baseAddress }) else { return 0 }
    try checkFileRange(offset, count)
    var done = 0
    while done < count {
      let result = await perform(
        .read(file.rawValue, into: base + done, count: count - done, offset: offset + UInt64(done)), in: lane)
      if result < 0 { throw SystemError(-result) }
      done += Int(result)
      if result == 0 || done % unit != 0 { break }
    }
    return done
  }

  /// Writes all of `bytes` at `offset`; past the file's end it grows.
  /// - Parameter durable: durable with the metadata needed to read it back before the call returns (RWF_DSYNC).
  package func write(
    _ file: FileDescriptor, _ bytes: RawSpan, at offset: UInt64, durable: Bool = false,
    in lane: BlockingLane = .shared
  ) async throws(SystemError) {
    let count = bytes.byteCount
    guard count > 0, let base = bytes.withUnsafeBytes({ $0.baseAddress }) else { return }
    try checkFileRange(offset, count)
    var done = 0
    while done < count {
      let result = await perform(
        .write(
          file.rawValue, from: base + done, count: count - done, offset: offset + UInt64(done), durable: durable),
        in: lane)
      if result < 0 { throw SystemError(-result) }
      // A file system that takes nothing and gives no reason would have us try for ever.
      if result == 0 { throw SystemError(EIO, "the file system took none of the bytes") }
      done += Int(result)
    }
  }

  /// Makes written data durable, with the metadata needed to read it back.
  package func fdatasync(_ file: FileDescriptor, in lane: BlockingLane = .shared) async throws(SystemError) {
    try await sync(file, dataOnly: true, in: lane)
  }

  /// Makes data and all metadata durable; for a folder, the names in it.
  package func fsync(_ file: FileDescriptor, in lane: BlockingLane = .shared) async throws(SystemError) {
    try await sync(file, dataOnly: false, in: lane)
  }

  private func sync(_ file: FileDescriptor, dataOnly: Bool, in lane: BlockingLane) async throws(SystemError) {
    // Never repeated after an error: Linux tells it once and may have dropped the pages.
    let result = await perform(.sync(file.rawValue, dataOnly: dataOnly), in: lane)
    if result < 0 { throw SystemError(-result) }
  }

  /// Changes how `byteCount` bytes at `offset` are stored.
  package func allocate(
    _ file: FileDescriptor, _ mode: AllocationMode, at offset: UInt64, byteCount: UInt64,
    in lane: BlockingLane = .shared
  ) async throws(SystemError) {
    guard byteCount > 0 else { return }
    guard let end = off_t(exactly: offset), off_t(exactly: byteCount) != nil,
      !end.addingReportingOverflow(off_t(byteCount)).overflow
    else { throw SystemError(EFBIG) }
    let result = await perform(
      .allocate(file.rawValue, mode: mode.rawValue, offset: offset, length: byteCount), in: lane)
    if result < 0 { throw SystemError(-result) }
  }

  private func checkFileRange(_ offset: UInt64, _ count: Int) throws(SystemError) {
    guard let start = off_t(exactly: offset), !start.addingReportingOverflow(off_t(count)).overflow else {
      throw SystemError(EFBIG)
    }
  }

  /// The result, or a negative errno other than EINTR and EAGAIN.
  func perform(_ operation: FileOperation, in lane: BlockingLane) async -> Int32 {
    checkIsolated()
    guard port != nil else { return -ESHUTDOWN }
    beginOperation()
    fileOperationCount += 1
    defer {
      fileOperationCount -= 1
      endOperation()
    }
    while let port {
      let result = await withUnsafeContinuation { port.start(operation, in: lane, $0) }
      if result == -EAGAIN {
        // The ring declined what would have blocked: a thread may.
        return await blockingCalls.run(in: lane) { operation.perform() }
      }
      if result != -EINTR { return result }
    }
    return -ESHUTDOWN
  }
}
