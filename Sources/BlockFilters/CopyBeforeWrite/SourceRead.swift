import BlockCore
import Buffers

/// A read of the source that is under way for a reader of a view. Its bytes serve copies too.
final class SourceRead {
  let range: ByteRange
  private let point: PointInTime
  private var copies: [(copy: GrainCopy, range: ByteRange)] = []

  init(_ range: ByteRange, for point: PointInTime) {
    self.range = range
    self.point = point
  }

  /// Whether its bytes are what the source holds there now: nothing of it has changed since its point's own moment.
  func serves(_ wanted: ByteRange) -> Bool { range.contains(wanted) && point.pending.containsAll(of: wanted) }

  /// Will give the copy the bytes of `wanted`, unless it fails.
  func give(_ wanted: ByteRange, to copy: GrainCopy) {
    copy.reader = self
    copies.append((copy, wanted))
  }

  /// Ends it with the bytes of ``range``, or without any.
  func end(_ bytes: RawSpan?, _ pool: BufferPool, grainByteCount: UInt64) {
    for (copy, wanted) in copies {
      copy.reader = nil
      if let bytes, copy.isRunning {
        let start = Int(wanted.offset - range.offset)
        copy.hasRead(
          GrainBytes(
            pool.take(wholeGrainsOf: bytes.extracting(start..<start + Int(wanted.length)), grainByteCount), wanted))
      } else {
        copy.wake()
      }
    }
    copies = []
  }
}

extension BufferPool {
  /// A buffer that begins with `bytes` and has zeroes up to the end of the last grain.
  func take(wholeGrainsOf bytes: RawSpan, _ grainByteCount: UInt64) -> PageBuffer {
    let whole = Int(ByteRange(offset: 0, length: UInt64(bytes.byteCount)).aligned(to: grainByteCount).length)
    var buffer = take(whole)
    var target = buffer.mutableBytes
    target.copy(from: bytes)
    target.zero(bytes.byteCount..<whole)
    return buffer
  }
}
