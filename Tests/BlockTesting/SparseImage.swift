import BlockCore
import Buffers

/// The bytes of a test device as a value, in blocks: each is a hole, allocated and known to be zero, or data.
///
/// Copies are cheap and independent. Offsets must lie inside; the devices check before they ask.
package struct SparseImage: Sendable {
  /// The most blocks that one ``status(of:limit:)`` walks over.
  private static let statusBlockLimit: UInt64 = 1 << 16

  private struct Block: Sendable {
    // Without bytes the block is allocated and known to be zero.
    var bytes: [UInt8]?

    mutating func store(_ source: RawSpan, at offset: Int, blockByteCount: Int) {
      if bytes == nil { bytes = [UInt8](repeating: 0, count: blockByteCount) }
      bytes!.withUnsafeMutableBytes { target in
        source.withUnsafeBytes { UnsafeMutableRawBufferPointer(rebasing: target[offset...]).copyMemory(from: $0) }
      }
    }

    mutating func zero(_ range: Range<Int>) {
      bytes?.withUnsafeMutableBytes { target in
        guard let base = target.baseAddress else { return }
        _ = UnsafeMutableRawBufferPointer(start: base + range.lowerBound, count: range.count)
          .initializeMemory(as: UInt8.self, repeating: 0)
      }
    }
  }

  /// A run of bytes inside one block.
  private struct Piece {
    let index: UInt64
    let inBlock: Range<Int>
    let position: Int
  }

  package private(set) var byteCount: UInt64
  package let blockByteCount: Int
  // Holes are absent. Bytes past `byteCount` in the last block are zero.
  private var blocks: [UInt64: Block] = [:]

  package init(byteCount: UInt64, blockByteCount: Int = 4096) {
    precondition(blockByteCount > 0)
    self.byteCount = byteCount
    self.blockByteCount = blockByteCount
  }

  /// Bytes in blocks that aren't holes.
  package var allocatedByteCount: UInt64 { UInt64(blocks.count) * UInt64(blockByteCount) }

  package func read(into buffer: inout MutableRawSpan, at offset: UInt64) {
    var position = 0
    while position < buffer.byteCount {
      let piece = piece(at: offset, position: position, of: buffer.byteCount)
      if let bytes = blocks[piece.index]?.bytes {
        buffer.copy(from: bytes.span.bytes.extracting(piece.inBlock), at: position)
      } else {
        buffer.zero(position..<position + piece.inBlock.count)
      }
      position += piece.inBlock.count
    }
  }

  package mutating func write(_ bytes: RawSpan, at offset: UInt64) {
    var position = 0
    while position < bytes.byteCount {
      let piece = piece(at: offset, position: position, of: bytes.byteCount)
      let source = bytes.extracting(position..<position + piece.inBlock.count)
      blocks[piece.index, default: Block()]
        .store(source, at: piece.inBlock.lowerBound, blockByteCount: blockByteCount)
      position += piece.inBlock.count
    }
  }

  /// Makes the range read as zeroes: whole blocks become holes if `unmap`, else allocated zeroes.
  package mutating func zero(_ range: ByteRange, unmap: Bool) {
    if unmap, range.length / UInt64(blockByteCount) > UInt64(blocks.count) {
      return zeroPresentBlocks(of: range)
    }
    var position: UInt64 = 0
    while position < range.length {
      position += zeroInBlock(at: range.offset + position, upTo: range.end, unmap: unmap)
    }
  }

  /// The whole blocks inside `range`, which a discard gives back; the last block of the device may be short.
  package func wholeBlocks(in range: ByteRange) -> ByteRange? {
    let block = UInt64(blockByteCount)
    let start = (range.offset + block - 1) / block * block
    let end = range.end == byteCount ? range.end : range.end / block * block
    return start < end ? ByteRange(start..<end) : nil
  }

  /// Extents of `range`, joined, at most `limit`, perhaps for less than the range.
  package func status(of range: ByteRange, limit: Int) -> [Extent] {
    var extents: [Extent] = []
    let block = UInt64(blockByteCount)
    var offset = range.offset
    let end = min(range.end, (offset / block + Self.statusBlockLimit) * block)
    while offset < end {
      let next = min(end, (offset / block + 1) * block)
      let extent = extent(ofBlock: offset / block, range: ByteRange(offset..<next))
      if extents.count == limit, !extents[limit - 1].continues(with: extent) { break }
      extents.appendMerging(extent)
      offset = next
    }
    return extents
  }

  package mutating func resize(to newByteCount: UInt64) {
    if newByteCount < byteCount {
      let block = UInt64(blockByteCount)
      blocks = blocks.filter { $0.key * block < newByteCount }
      let kept = Int(newByteCount % block)
      if kept > 0 { blocks[newByteCount / block]?.zero(kept..<blockByteCount) }
    }
    byteCount = newByteCount
  }

  /// Calls `body` with each block's bytes that aren't known to be zero, in order, cut to the device's end.
  package func forEachDataBlock<Failure: Error>(
    _ body: (_ offset: UInt64, _ bytes: RawSpan) throws(Failure) -> Void
  ) throws(Failure) {
    for index in blocks.keys.sorted() {
      guard let bytes = blocks[index]?.bytes else { continue }
      let offset = index * UInt64(blockByteCount)
      let count = Int(min(UInt64(blockByteCount), byteCount - offset))
      try body(offset, bytes.span.bytes.extracting(0..<count))
    }
  }

  private func piece(at offset: UInt64, position: Int, of total: Int) -> Piece {
    let (index, inBlock) = (offset + UInt64(position)).quotientAndRemainder(dividingBy: UInt64(blockByteCount))
    let start = Int(inBlock)
    return Piece(index: index, inBlock: start..<min(blockByteCount, start + total - position), position: position)
  }

  private func extent(ofBlock index: UInt64, range: ByteRange) -> Extent {
    guard let block = blocks[index] else { return Extent(range: range, status: [.zero, .hole], depth: 0) }
    return Extent(range: range, status: block.bytes == nil ? .zero : [], depth: 1)
  }

  /// Zeroes from `offset` to the end of its block or `end`; returns how many bytes that was.
  private mutating func zeroInBlock(at offset: UInt64, upTo end: UInt64, unmap: Bool) -> UInt64 {
    let block = UInt64(blockByteCount)
    let (index, start) = offset.quotientAndRemainder(dividingBy: block)
    let stop = min(end, (index + 1) * block)
    if start == 0, stop == (index + 1) * block || stop == byteCount {
      blocks[index] = unmap ? nil : Block()
    } else if unmap {
      blocks[index]?.zero(Int(start)..<Int(stop - index * block))
    } else {
      blocks[index, default: Block()].zero(Int(start)..<Int(stop - index * block))
    }
    return stop - offset
  }

  /// The same for a range with more blocks than there are in the image: looks at those that exist.
  private mutating func zeroPresentBlocks(of range: ByteRange) {
    let block = UInt64(blockByteCount)
    for index in blocks.keys {
      let whole = ByteRange(index * block..<min((index + 1) * block, byteCount))
      guard let part = whole.intersection(range) else { continue }
      _ = zeroInBlock(at: part.offset, upTo: part.end, unmap: true)
    }
  }
}
