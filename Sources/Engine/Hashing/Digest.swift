import CGnuTLS

/// A SHA-256 value, or the constant that stands for zeroes.
///
/// All its bytes are zero for a grain, or a subtree, that reads as zeroes: no SHA-256 of anything is known to be that.
package struct Digest: Hashable, Sendable {
  package static let byteCount = 32
  package static let zero = Digest()

  // In memory order, so that it is stored and compared as it lies. No SIMD type: these are aligned to 32 bytes, and
  // Swift 6.3 lays out the frames of async functions for 16.
  private var word0: UInt64 = 0
  private var word1: UInt64 = 0
  private var word2: UInt64 = 0
  private var word3: UInt64 = 0

  private init() {}

  /// The SHA-256 of `bytes`.
  package init(of bytes: RawSpan) {
    let result = withUnsafeMutableBytes(of: &self) { target in
      bytes.withUnsafeBytes { gnutls_hash_fast(GNUTLS_DIG_SHA256, $0.baseAddress, $0.count, target.baseAddress) }
    }
    // It fails only for an algorithm that the library lacks.
    precondition(result == 0, "SHA-256 isn't available: \(result)")
  }

  /// Reads 32 bytes at `offset`.
  package init(from bytes: RawSpan, at offset: Int) {
    word0 = bytes.unsafeLoadUnaligned(fromByteOffset: offset, as: UInt64.self)
    word1 = bytes.unsafeLoadUnaligned(fromByteOffset: offset + 8, as: UInt64.self)
    word2 = bytes.unsafeLoadUnaligned(fromByteOffset: offset + 16, as: UInt64.self)
    word3 = bytes.unsafeLoadUnaligned(fromByteOffset: offset + 24, as: UInt64.self)
  }

  /// Stores 32 bytes at `offset`.
  package func store(in bytes: inout [UInt8], at offset: Int) {
    withUnsafeBytes(of: self) { source in
      bytes.withUnsafeMutableBytes { target in
        UnsafeMutableRawBufferPointer(rebasing: target[offset..<offset + Self.byteCount]).copyMemory(from: source)
      }
    }
  }

  package var bytes: [UInt8] { withUnsafeBytes(of: self) { [UInt8]($0) } }
}

extension Digest: CustomStringConvertible {
  /// Lower-case hexadecimal.
  package var description: String {
    let digits = Array("0123456789abcdef".utf8)
    return String(decoding: bytes.flatMap { [digits[Int($0 >> 4)], digits[Int($0 & 15)]] }, as: UTF8.self)
  }

  /// Reads the text form; nil if it isn't 64 lower-case hexadecimal digits.
  package init?(hexadecimal text: String) {
    func value(_ digit: UInt8) -> UInt8? {
      switch digit {
      case 0x30...0x39: digit - 0x30
      case 0x61...0x66: digit - 0x61 + 10
      default: nil
      }
    }
    let digits = text.utf8.compactMap(value)
    guard text.utf8.count == 2 * Self.byteCount, digits.count == 2 * Self.byteCount else { return nil }
    let bytes = (0..<Self.byteCount).map { digits[2 * $0] << 4 | digits[2 * $0 + 1] }
    self.init(from: bytes.span.bytes, at: 0)
  }
}
