/// Numbers as the NBD protocol and qcow2 hold them: most significant byte first.
extension RawSpan {
  /// The integer at `offset`. The caller has checked that it lies inside.
  @inlinable @inline(__always)
  package func bigEndian<Value: FixedWidthInteger & BitwiseCopyable>(
    _ type: Value.Type = Value.self, at offset: Int
  ) -> Value {
    Value(bigEndian: unsafeLoadUnaligned(fromByteOffset: offset, as: Value.self))
  }
}

extension MutableRawSpan {
  /// Stores `value` at `offset`. Traps past the end.
  @inlinable @inline(__always)
  @_lifetime(self: copy self)
  package mutating func store<Value: FixedWidthInteger & BitwiseCopyable>(bigEndian value: Value, at offset: Int) {
    storeBytes(of: value.bigEndian, toByteOffset: offset, as: Value.self)
  }
}

extension [UInt8] {
  @inlinable
  package mutating func append(bigEndian value: some FixedWidthInteger) {
    Swift.withUnsafeBytes(of: value.bigEndian) { append(contentsOf: $0) }
  }
}
