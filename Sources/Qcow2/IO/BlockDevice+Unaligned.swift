import BlockCore
import Buffers

/// Reads of any offset and length from a device that may want alignment.
extension BlockDevice {
  /// Fills `buffer` from `offset` on, whatever the device's alignment and transfer size; bytes past its end are zero.
  nonisolated(nonsending)
    func readUnaligned(
      into buffer: inout MutableRawSpan, at offset: UInt64, pool: BufferPool
    ) async throws(BlockError)
  {
    let available = offset < byteCount ? Int(min(UInt64(buffer.byteCount), byteCount - offset)) : 0
    if available < buffer.byteCount { buffer.zero(available..<buffer.byteCount) }
    let alignment = UInt64(limits.requestAlignment)
    let step = max(limits.maximumTransferByteCount / limits.requestAlignment, 1) * limits.requestAlignment
    var done = 0
    while done < available {
      let position = offset + UInt64(done)
      var end = min(available, done + step)
      if position % alignment == 0, end - done >= limits.requestAlignment || alignment == 1 {
        end -= (end - done) % limits.requestAlignment
        var part = buffer.part(done..<end)
        try await read(into: &part, at: position)
      } else {
        let skipped = Int(position % alignment)
        end = min(end, done + limits.requestAlignment - skipped)
        // The last block of a device whose size isn't aligned is asked for as far as it goes.
        let start = position - UInt64(skipped)
        let blockCount = Int(min(alignment, byteCount - start))
        var block = pool.take(limits.requestAlignment)
        var whole = block.mutableBytes
        var blockPart = whole.part(0..<blockCount)
        try await read(into: &blockPart, at: start)
        buffer.copy(from: block.bytes.extracting(skipped..<skipped + end - done), at: done)
      }
      done = end
    }
  }

  /// The same without waiting; false if anything isn't at hand.
  func tryReadUnaligned(into buffer: inout MutableRawSpan, at offset: UInt64) throws(BlockError) -> Bool {
    let alignment = UInt64(limits.requestAlignment)
    let length = UInt64(buffer.byteCount)
    let available = offset < byteCount ? min(length, byteCount - offset) : 0
    guard offset % alignment == 0, available % alignment == 0, available <= UInt64(limits.maximumTransferByteCount)
    else { return false }
    if available > 0 {
      var part = buffer.part(0..<Int(available))
      guard try tryRead(into: &part, at: offset) else { return false }
    }
    if available < length { buffer.zero(Int(available)..<buffer.byteCount) }
    return true
  }
}
