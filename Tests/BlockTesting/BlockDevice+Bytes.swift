import BlockCore
import Buffers

/// Whole transfers with plain arrays, for tests.
extension BlockDevice {
  /// `count` bytes from `offset` on, in requests that the device takes.
  package func readBytes(_ count: Int, at offset: UInt64) async throws(BlockError) -> [UInt8] {
    // Not zero at first, so that bytes that a read leaves out are seen.
    var bytes = [UInt8](repeating: 0xA5, count: count)
    let step = limits.maximumTransferByteCount
    var position = 0
    while position < count {
      let end = min(count, position + step)
      var all = bytes.mutableSpan
      var span = all.mutableBytes
      var part = span.part(position..<end)
      try await read(into: &part, at: offset + UInt64(position))
      position = end
    }
    return bytes
  }

  /// All bytes of the device.
  package func readAll() async throws(BlockError) -> [UInt8] {
    try await readBytes(Int(byteCount), at: 0)
  }

  package func writeBytes(_ bytes: [UInt8], at offset: UInt64, options: WriteOptions = []) async throws(BlockError) {
    let step = limits.maximumTransferByteCount
    var position = 0
    while position < bytes.count {
      let end = min(bytes.count, position + step)
      try await write(bytes.span.bytes.extracting(position..<end), at: offset + UInt64(position), options: options)
      position = end
    }
  }

  /// The status of `range` to its end, asked for as often as it takes, joined.
  package func wholeStatus(_ range: ByteRange, limit: Int = 64) async throws(BlockError) -> [Extent] {
    var extents: [Extent] = []
    var offset = range.offset
    while offset < range.end {
      let part = try await blockStatus(ByteRange(offset..<range.end), limit: limit)
      guard let last = part.last, last.range.end > offset else {
        throw BlockError(.corrupt("block status doesn't get on"), .blockStatus, ByteRange(offset..<range.end))
      }
      for extent in part { extents.appendMerging(extent) }
      offset = last.range.end
    }
    return extents
  }
}
