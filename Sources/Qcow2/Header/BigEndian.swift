import Buffers

/// All numbers in qcow2 are big-endian (qcow2.txt, "General").
extension RawSpan {
  /// The integer at `offset`. The caller has checked that it lies inside.
  @inline(__always)
  func bigEndian<Integer: FixedWidthInteger & BitwiseCopyable>(
    _ type: Integer.Type = Integer.self, at offset: Int
  ) -> Integer {
    Integer(bigEndian: unsafeLoadUnaligned(fromByteOffset: offset, as: Integer.self))
  }

  /// A copy of the bytes in `range`. The caller has checked that it lies inside.
  func array(_ range: Range<Int>) -> [UInt8] {
    extracting(range).withUnsafeBytes { Array($0) }
  }
}

extension MutableRawSpan {
  @inline(__always)
  @_lifetime(self: copy self)
  mutating func storeBigEndian<Integer: FixedWidthInteger & BitwiseCopyable>(_ value: Integer, at offset: Int) {
    storeBytes(of: value.bigEndian, toByteOffset: offset, as: Integer.self)
  }
}

extension [UInt8] {
  mutating func appendBigEndian(_ value: some FixedWidthInteger) {
    Swift.withUnsafeBytes(of: value.bigEndian) { append(contentsOf: $0) }
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

  mutating func storeBigEndian<Integer: FixedWidthInteger & BitwiseCopyable>(_ value: Integer, at offset: Int) {
    var all = mutableBytes
    all.storeBigEndian(value, at: offset)
  }

  func isZero(_ range: Range<Int>) -> Bool { bytes.extracting(range).isZero }

  /// Copies the bytes in `range` to `target`, from `offset` in it on.
  func copy(_ range: Range<Int>, into target: inout MutableRawSpan, at offset: Int = 0) {
    target.copy(from: bytes.extracting(range), at: offset)
  }
}
