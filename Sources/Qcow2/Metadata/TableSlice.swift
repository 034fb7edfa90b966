import Bytes
import BlockCore
import Buffers

/// A piece of a metadata table in memory: big-endian entries as they stand in the file.
///
/// A caller that gets one from the cache uses it before the next suspension: afterwards it may be out of the cache.
final class TableSlice {
  /// Place in the file, in bytes.
  let offset: UInt64
  let byteCount: Int
  private let kind: MetadataRegions.Kind
  private var buffer: PageBuffer
  /// Bytes that were changed since they were last staged.
  private var dirty: Range<Int>?
  /// Staged copies on their way to the file: until they are there, the file holds something older.
  fileprivate(set) var writesUnderWay = 0
  var wasUsed = true

  init(_ kind: MetadataRegions.Kind, offset: UInt64, byteCount: Int, buffer: consuming PageBuffer) {
    self.kind = kind
    self.offset = offset
    self.byteCount = byteCount
    self.buffer = buffer
  }

  var isDirty: Bool { dirty != nil }
  var isEvictable: Bool { dirty == nil && writesUnderWay == 0 }

  @inline(__always)
  func entry<Integer: FixedWidthInteger & BitwiseCopyable>(
    _ type: Integer.Type = Integer.self, at position: Int
  ) -> Integer {
    buffer.bigEndian(at: position)
  }

  /// True if these bytes are all zero: no entry stands there.
  func isZero(_ range: Range<Int>) -> Bool { buffer.isZero(range) }

  /// How many bytes from `position` on are zero.
  func leadingZeroByteCount(from position: Int) -> Int {
    buffer.leadingZeroByteCount(in: position..<byteCount)
  }

  /// Only for the cache, which counts what is dirty.
  func store<Integer: FixedWidthInteger & BitwiseCopyable>(_ value: Integer, at position: Int) {
    buffer.store(bigEndian: value, at: position)
    let changed = position..<position + MemoryLayout<Integer>.size
    dirty = dirty.map { min($0.lowerBound, changed.lowerBound)..<max($0.upperBound, changed.upperBound) } ?? changed
  }

  /// Takes a copy of what changed, in whole blocks of `alignment`, and counts the slice as clean.
  func stage(alignment: Int, pool: BufferPool) -> StagedWrite? {
    guard let changed = dirty else { return nil }
    dirty = nil
    writesUnderWay += 1
    let start = changed.lowerBound / alignment * alignment
    let end = min((changed.upperBound + alignment - 1) / alignment * alignment, byteCount)
    var copy = pool.take(end - start)
    var bytes = copy.mutableBytes
    buffer.copy(start..<end, into: &bytes)
    return StagedWrite(kind, offset: offset + UInt64(start), byteCount: end - start, buffer: copy, of: self)
  }
}

/// Bytes of a table as they were at one moment, to be written while the table changes on.
final class StagedWrite {
  private let kind: MetadataRegions.Kind
  let offset: UInt64
  let byteCount: Int
  private var buffer: PageBuffer?
  private let slice: TableSlice?

  init(
    _ kind: MetadataRegions.Kind, offset: UInt64, byteCount: Int, buffer: consuming PageBuffer,
    of slice: TableSlice? = nil
  ) {
    self.kind = kind
    self.offset = offset
    self.byteCount = byteCount
    self.buffer = consume buffer
    self.slice = slice
  }

  /// Writes the bytes, once.
  func write(to file: ImageFile) async throws(BlockError) {
    defer { slice?.writesUnderWay -= 1 }
    guard let bytes = buffer.take() else { return }
    try await file.writeTable(bytes.bytes.extracting(0..<byteCount), at: offset, of: kind)
  }
}
