import BlockCore
import Buffers

/// Reads that may go past a device's end, which the format allows of its file and of a backing file: those bytes are
/// zero.
extension BlockDevice {
  func readPastEnd(into buffer: inout MutableRawSpan, at offset: UInt64) async throws(BlockError) {
    let available = zeroPastEnd(of: &buffer, at: offset)
    guard available > 0 else { return }
    guard available < buffer.byteCount else { return try await read(into: &buffer, at: offset) }
    var part = buffer.part(0..<available)
    try await read(into: &part, at: offset)
  }

  /// The same without waiting; false if anything isn't at hand.
  func tryReadPastEnd(into buffer: inout MutableRawSpan, at offset: UInt64) throws(BlockError) -> Bool {
    let available = zeroPastEnd(of: &buffer, at: offset)
    guard available > 0 else { return true }
    guard available < buffer.byteCount else { return try tryRead(into: &buffer, at: offset) }
    var part = buffer.part(0..<available)
    return try tryRead(into: &part, at: offset)
  }

  /// How many bytes the device has for `buffer`; the others are zero afterwards.
  private func zeroPastEnd(of buffer: inout MutableRawSpan, at offset: UInt64) -> Int {
    let available = offset < byteCount ? Int(min(UInt64(buffer.byteCount), byteCount - offset)) : 0
    if available < buffer.byteCount { buffer.zero(available..<buffer.byteCount) }
    return available
  }
}
