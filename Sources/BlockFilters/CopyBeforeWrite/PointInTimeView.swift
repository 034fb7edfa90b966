import BlockCore
import Buffers
import Glibc

/// A disk as it was at one moment, to read while the guest goes on: see ``CopyBeforeWrite``.
///
/// Reads of what isn't wanted or was released fail with EPERM. Once the point is lost everything fails with
/// `pointInTimeLost`, whose cause says why.
///
/// Closing it ends the point and frees what it kept. It doesn't wait for reads in flight, which fail: a source that hangs
/// holds up nobody's end.
package final class PointInTimeView: BlockDevice, @unchecked Sendable {
  // Safe to hand over: confined to its loop, like every device.

  let point: PointInTime
  let filter: CopyBeforeWrite
  package let limits: BlockLimits
  private var isClosed = false

  init(of point: PointInTime, in filter: CopyBeforeWrite) {
    self.point = point
    self.filter = filter
    limits = filter.next.limits
  }

  package var byteCount: UInt64 { point.grains.byteCount }
  package var isReadOnly: Bool { true }
  /// Why it can't be read any more; nil while it can.
  package var loss: PointInTimeLoss? { isClosed ? nil : point.loss }

  /// What the point has cost so far.
  package var report: CopyBeforeWriteReport {
    var report = point.report
    report.memoryHighWaterByteCount = filter.store.memoryHighWaterByteCount
    report.tempHighWaterByteCount = filter.store.tempHighWaterByteCount
    return report
  }

  /// Old bytes that are kept for the view, wherever they are; those that are zero or the backing file's take no room.
  package var keptByteCount: UInt64 { UInt64(point.storedCount) * point.grains.grainByteCount }
  package var keptHighWaterByteCount: UInt64 { UInt64(point.storedHighWaterCount) * point.grains.grainByteCount }

  /// No read will ask for these bytes any more: their whole grains cost no copy from now on, and what is kept of them is
  /// freed. Reads that are under way go on.
  package func release(_ ranges: [ByteRange]) {
    for range in ranges {
      if let whole = point.grains.roundedIn(range) { point.release(whole) }
    }
    filter.abandonCopies()
  }

  package func close() async throws(BlockError) {
    guard !isClosed else { return }
    isClosed = true
    filter.end(point)
  }

  // MARK: Requests

  /// Throws unless the view can answer.
  private func check(_ operation: BlockError.Operation, _ range: ByteRange) throws(BlockError) {
    if isClosed { throw BlockError(.closed, operation, range) }
    if let loss = point.loss { throw loss.error(operation, range) }
  }

  private func checkRead(_ offset: UInt64, _ byteCount: Int) throws(BlockError) -> ByteRange {
    try checkRequest(.read, at: offset, length: UInt64(byteCount))
    let range = ByteRange(offset: offset, length: UInt64(byteCount))
    try check(.read, range)
    guard point.readable.containsAll(of: range) else { throw Self.notReadable(range) }
    return range
  }

  static func notReadable(_ range: ByteRange) -> BlockError {
    BlockError(.io(errno: EPERM), .read, range, cause: "no part of the view, or released")
  }

  package func tryRead(into buffer: inout MutableRawSpan, at offset: UInt64) throws(BlockError) -> Bool {
    let range = try checkRead(offset, buffer.byteCount)
    var position = range.offset
    while position < range.end {
      let piece = piece(from: position, to: range.end)
      let start = Int(piece.range.offset - offset)
      var part = buffer.part(start..<start + Int(piece.range.length))
      guard try tryRead(piece, into: &part) else { return false }
      position = piece.range.end
    }
    return true
  }

  package func read(into buffer: inout MutableRawSpan, at offset: UInt64) async throws(BlockError) {
    let range = try checkRead(offset, buffer.byteCount)
    let ticket = point.beginRead()
    defer { point.endRead(ticket) }
    do throws(BlockError) {
      var position = range.offset
      while position < range.end {
        let piece = piece(from: position, to: range.end)
        let start = Int(piece.range.offset - offset)
        var part = buffer.part(start..<start + Int(piece.range.length))
        if try await read(piece, into: &part) { position = piece.range.end }
      }
    } catch {
      // A loss is the better reason.
      try check(.read, range)
      throw error
    }
    try check(.read, range)
  }

  package func blockStatus(_ range: ByteRange, limit: Int) async throws(BlockError) -> [Extent] {
    try checkRequest(.blockStatus, at: range.offset, length: range.length)
    try check(.blockStatus, range)
    var extents: [Extent] = []
    var position = range.offset
    var stepsLeft = Self.statusStepLimit
    while position < range.end, stepsLeft > 0 {
      stepsLeft -= 1
      let next: [Extent]
      do throws(BlockError) {
        next = try await status(from: position, to: range.end, limit: limit)
      } catch {
        try check(.blockStatus, range)
        throw error
      }
      for extent in next {
        if extents.count == limit, extents.last?.continues(with: extent) == false { return extents }
        extents.appendMerging(extent)
        position = extent.range.end
      }
      try check(.blockStatus, range)
    }
    return extents
  }

  package func flush() async throws(BlockError) { try check(.flush, ByteRange(offset: 0, length: 0)) }

  // MARK: Changes

  package func write(_ bytes: RawSpan, at offset: UInt64, options: WriteOptions) async throws(BlockError) {
    try refuse(.write, ByteRange(offset: offset, length: UInt64(bytes.byteCount)))
  }

  package func writeZeroes(_ range: ByteRange, options: ZeroOptions) async throws(BlockError) {
    try refuse(.writeZeroes, range)
  }

  package func discard(_ range: ByteRange) async throws(BlockError) { try refuse(.discard, range) }

  package func resize(to byteCount: UInt64) async throws(BlockError) {
    try refuse(.resize, ByteRange(offset: 0, length: byteCount))
  }

  private func refuse(_ operation: BlockError.Operation, _ range: ByteRange) throws(BlockError) {
    try check(operation, range)
    throw BlockError(.readOnly, operation, range)
  }
}

extension CopyBeforeWrite {
  /// Ends a point whose view was closed.
  func end(_ point: PointInTime) {
    points.removeAll { $0.point === point }
    point.lose(.ended)
    abandonCopies()
  }
}
