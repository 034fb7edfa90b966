import Buffers
import Bytes

extension RawSpan {
  /// A copy of the bytes in `range`. The caller has checked that it lies inside.
  func array(_ range: Range<Int>) -> [UInt8] {
    extracting(range).withUnsafeBytes { Array($0) }
  }
}

/// What an object does with a buffer that it keeps: spans of it can't leave the access to the object's field.
extension PageBuffer {
  @inline(__always)
  func bigEndian<Integer: FixedWidthInteger & BitwiseCopyable>(
    _ type: Integer.Type = Integer.self, at offset: Int
  ) -> Integer {
    bytes.bigEndian(at: offset)
  }

  mutating func store<Integer: FixedWidthInteger & BitwiseCopyable>(bigEndian value: Integer, at offset: Int) {
    var all = mutableBytes
    all.store(bigEndian: value, at: offset)
  }

  func isZero(_ range: Range<Int>) -> Bool { bytes.extracting(range).isZero }

  func leadingZeroByteCount(in range: Range<Int>) -> Int { bytes.extracting(range).leadingZeroByteCount }

  /// Copies the bytes in `range` to `target`, from `offset` in it on.
  func copy(_ range: Range<Int>, into target: inout MutableRawSpan, at offset: Int = 0) {
    target.copy(from: bytes.extracting(range), at: offset)
  }
}
