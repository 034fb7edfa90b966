import Bitmaps
import BlockCore

/// A disk cut into grains: a change keeps the old bytes of whole ones. The last grain may be short.
struct Grains: Hashable, Sendable {
  let byteCount: UInt64
  /// A power of two.
  let grainByteCount: UInt64

  /// The grain with that byte, as it lies on the disk.
  func grain(at offset: UInt64) -> ByteRange { rounded(ByteRange(offset: offset, length: 1)) }

  /// Where the grain begins that has the byte.
  func start(of offset: UInt64) -> UInt64 { offset & ~(grainByteCount - 1) }

  /// The range and the rest of its first and last grain.
  func rounded(_ range: ByteRange) -> ByteRange {
    let whole = range.aligned(to: grainByteCount)
    return whole.end <= byteCount ? whole : ByteRange(whole.offset..<byteCount)
  }

  /// The whole grains in the range, or nil.
  func roundedIn(_ range: ByteRange) -> ByteRange? {
    let start = range.offset.addingReportingOverflow(grainByteCount - 1)
    guard !start.overflow else { return nil }
    let first = self.start(of: start.partialValue)
    let end = range.end >= byteCount ? byteCount : self.start(of: range.end)
    return first < end ? ByteRange(first..<end) : nil
  }

  /// The grains of a range of whole ones, in order.
  func each(of range: ByteRange) -> some Sequence<ByteRange> {
    stride(from: range.offset, to: range.end, by: Int(grainByteCount)).lazy.map { grain(at: $0) }
  }

  func emptyBitmap() -> DirtyBitmap { DirtyBitmap(byteCount: byteCount, granularity: grainByteCount) }
}
