import BlockCore
import Buffers

/// A disk with a backing file, in memory: what it doesn't hold itself reads as the file does, and as zeroes beyond that.
/// A change copies the rest of its blocks first.
package final class LayeredDevice: BlockDevice, @unchecked Sendable {
  // Safe to hand over: confined to its home loop, like every device.

  private var top: SparseImage
  private let backing: SparseImage
  package let limits: BlockLimits

  package init(byteCount: UInt64, over backing: SparseImage, limits: BlockLimits = BlockLimits()) {
    top = SparseImage(byteCount: byteCount, blockByteCount: backing.blockByteCount)
    self.backing = backing
    self.limits = limits
  }

  package var byteCount: UInt64 { top.byteCount }
  package var isReadOnly: Bool { false }

  package func tryRead(into buffer: inout MutableRawSpan, at offset: UInt64) throws(BlockError) -> Bool {
    try checkRequest(.read, at: offset, length: UInt64(buffer.byteCount))
    for extent in status(ByteRange(offset: offset, length: UInt64(buffer.byteCount))) {
      let start = Int(extent.range.offset - offset)
      var part = buffer.part(start..<start + Int(extent.range.length))
      if extent.depth == 2 {
        backing.read(into: &part, at: extent.range.offset)
      } else {
        top.read(into: &part, at: extent.range.offset)
      }
    }
    return true
  }

  package func read(into buffer: inout MutableRawSpan, at offset: UInt64) async throws(BlockError) {
    _ = try tryRead(into: &buffer, at: offset)
  }

  package func write(_ bytes: RawSpan, at offset: UInt64, options: WriteOptions) async throws(BlockError) {
    try checkRequest(.write, at: offset, length: UInt64(bytes.byteCount))
    copyUp(ByteRange(offset: offset, length: UInt64(bytes.byteCount)))
    top.write(bytes, at: offset)
  }

  /// Allocated zeroes: a hole would show the backing file.
  package func writeZeroes(_ range: ByteRange, options: ZeroOptions) async throws(BlockError) {
    try checkRequest(.writeZeroes, at: range.offset, length: range.length)
    copyUp(range)
    top.zero(range, unmap: false)
  }

  package func discard(_ range: ByteRange) async throws(BlockError) {
    try checkRequest(.discard, at: range.offset, length: range.length)
    if let whole = top.wholeBlocks(in: range) { top.zero(whole, unmap: false) }
  }

  package func flush() async throws(BlockError) {}

  package func blockStatus(_ range: ByteRange, limit: Int) async throws(BlockError) -> [Extent] {
    try checkRequest(.blockStatus, at: range.offset, length: range.length)
    return Array(status(range).prefix(limit))
  }

  package func resize(to byteCount: UInt64) async throws(BlockError) { throw BlockError(.notSupported, .resize) }
  package func close() async throws(BlockError) {}

  private func status(_ range: ByteRange) -> [Extent] {
    var extents: [Extent] = []
    for extent in top.status(of: range, limit: .max) {
      guard extent.status.contains(.hole), let below = extent.range.intersection(whole(backing)) else {
        extents.appendMerging(extent)
        continue
      }
      for part in backing.status(of: below, limit: .max) {
        let isHole = part.status.contains(.hole)
        extents.appendMerging(Extent(range: part.range, status: part.status, depth: isHole ? 0 : 2))
      }
      if below.end < extent.range.end {
        extents.appendMerging(
          Extent(range: ByteRange(below.end..<extent.range.end), status: [.zero, .hole], depth: 0))
      }
    }
    return extents
  }

  private func whole(_ image: SparseImage) -> ByteRange { ByteRange(offset: 0, length: image.byteCount) }

  /// Has the blocks of the range hold what they read as.
  private func copyUp(_ range: ByteRange) {
    let blocks = range.aligned(to: UInt64(top.blockByteCount)).intersection(whole(top)) ?? range
    for extent in status(blocks) where extent.depth == 2 {
      var bytes = [UInt8](repeating: 0, count: Int(extent.range.length))
      var all = bytes.mutableSpan
      var span = all.mutableBytes
      backing.read(into: &span, at: extent.range.offset)
      top.write(bytes.span.bytes, at: extent.range.offset)
    }
  }
}
