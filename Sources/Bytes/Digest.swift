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

  /// The SHA-256 of the text's UTF-8.
  package init(of text: String) { self.init(of: Array(text.utf8).span.bytes) }

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
    Hexadecimal.text(of: bytes)
  }

  /// Reads the text form; nil if it isn't 64 lower-case hexadecimal digits.
  package init?(hexadecimal text: String) {
    guard let bytes = Hexadecimal.bytes(of: text), bytes.count == Self.byteCount else { return nil }
    self.init(from: bytes.span.bytes, at: 0)
    guard description == text else { return nil }
  }
}
