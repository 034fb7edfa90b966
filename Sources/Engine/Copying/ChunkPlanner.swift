import BlockCore
import Model
import Repositories

/// What comes next in a copy: bytes that read as zeroes for certain, then bytes to read. Either may be empty.
package struct ChunkPlan: Hashable, Sendable {
  package var zeroes: ByteRange
  package var data: ByteRange
}

/// Cuts a device into chunks, from its block status, asked for page by page.
///
/// Chunks begin at grains and end at grains or the device's end, and don't cross a multiple of the chunk size. A grain
/// with any data in it is read whole.
package struct ChunkPlanner {
  /// Bytes that are read, hashed and written at once.
  package static let chunkByteCount: UInt64 = 1 << 20
  /// Extents asked for at once.
  private static let extentsPerPage = 512
  private static let grain = UInt64(HashTree.grainByteCount)

  private let device: any BlockDevice
  private let byteCount: UInt64
  private var position: UInt64 = 0
  /// What is known of the bytes up to `knownEnd`, in order; all from some place at or before `position` on.
  private var extents: ArraySlice<Extent> = []
  private var knownEnd: UInt64 = 0

  /// - Parameter byteCount: how much of the device is copied.
  package init(_ device: any BlockDevice, byteCount: UInt64) {
    self.device = device
    self.byteCount = byteCount
  }

  /// The next part; nil at the end.
  /// - Parameter checkpoint: called before each page of extents is asked for.
  nonisolated(nonsending)
    package mutating func next(_ checkpoint: () async throws -> Void) async throws -> ChunkPlan?
  {
    guard position < byteCount else { return nil }
    let start = position
    guard let data = try await firstData(from: start, checkpoint) else {
      position = byteCount
      return ChunkPlan(zeroes: ByteRange(start..<byteCount), data: ByteRange(byteCount..<byteCount))
    }
    let dataStart = data / Self.grain * Self.grain
    let limit = min(byteCount, (dataStart / Self.chunkByteCount + 1) * Self.chunkByteCount)
    var end = dataStart
    while end < limit, let data = try await firstData(from: end, checkpoint), data < end + Self.grain {
      end += Self.grain
    }
    position = min(end, byteCount)
    return ChunkPlan(zeroes: ByteRange(start..<dataStart), data: ByteRange(dataStart..<position))
  }

  nonisolated(nonsending)
    private mutating func firstData(
      from offset: UInt64, _ checkpoint: () async throws -> Void
    ) async throws -> UInt64?
  {
    while true {
      while let first = extents.first {
        if first.range.end > offset, !first.readsAsZero { return max(offset, first.range.offset) }
        extents.removeFirst()
      }
      let start = max(knownEnd, offset)
      guard start < byteCount else { return nil }
      try await checkpoint()
      let page = try await device.blockStatus(ByteRange(start..<byteCount), limit: Self.extentsPerPage)
      guard let last = page.last, last.range.end > start else {
        throw BlockError(.corrupt("its block status doesn't get on at byte \(start)"), .blockStatus)
      }
      extents = page[...]
      knownEnd = last.range.end
    }
  }
}
