import Glibc

extension RawSpan {
  /// True if every byte is zero.
  package var isZero: Bool {
    withUnsafeBytes { bytes in
      guard let base = bytes.baseAddress, bytes.count > 0 else { return true }
      guard bytes[0] == 0 else { return false }
      // A region equals itself shifted by one byte only if all bytes equal the first.
      return memcmp(base, base + 1, bytes.count - 1) == 0
    }
  }

  /// How many bytes are zero before the first that isn't.
  package var leadingZeroByteCount: Int {
    let step = 256
    var count = 0
    while count + step <= byteCount, extracting(count..<count + step).isZero { count += step }
    return withUnsafeBytes { bytes in
      while count + 8 <= bytes.count, bytes.loadUnaligned(fromByteOffset: count, as: UInt64.self) == 0 { count += 8 }
      while count < bytes.count, bytes[count] == 0 { count += 1 }
      return count
    }
  }
}

extension MutableRawSpan {
  /// The part `range` of these bytes, to change; the whole is out of reach while the part lives.
  @_lifetime(&self)
  package mutating func part(_ range: Range<Int>) -> MutableRawSpan {
    _mutatingExtracting(range)
  }

  /// Copies all of `source` to the bytes from `offset` on.
  @_lifetime(self: copy self)
  package mutating func copy(from source: RawSpan, at offset: Int = 0) {
    precondition(offset >= 0 && offset + source.byteCount <= byteCount)
    withUnsafeMutableBytes { target in
      source.withUnsafeBytes { source in
        UnsafeMutableRawBufferPointer(rebasing: target[offset...]).copyMemory(from: source)
      }
    }
  }

  /// Sets every byte in `range` (default: all) to zero.
  @_lifetime(self: copy self)
  package mutating func zero(_ range: Range<Int>? = nil) {
    let range = range ?? 0..<byteCount
    withUnsafeMutableBytes { target in
      guard let base = target.baseAddress, !range.isEmpty else { return }
      precondition(range.lowerBound >= 0 && range.upperBound <= target.count)
      memset(base + range.lowerBound, 0, range.count)
    }
  }
}
