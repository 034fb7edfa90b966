import Bytes

/// The name of a dirty bitmap: bytes, as whoever made it chose them. Most are UTF-8; nothing says that they are.
package struct BitmapName: Hashable, Sendable, Codable {
  package let bytes: [UInt8]

  package init(_ bytes: [UInt8]) { self.bytes = bytes }
  package init(_ text: String) { self.init(Array(text.utf8)) }

  /// Nil if a `%` isn't followed by two hexadecimal digits.
  package init?(percentEncoded text: String) {
    guard let bytes = PercentEncoding.decode(Substring(text)) else { return nil }
    self.init(bytes)
  }

  /// Nil unless it is UTF-8 without NUL.
  package var text: String? { bytes.contains(0) ? nil : String(validating: bytes, as: UTF8.self) }

  /// Each byte that isn't a letter, a digit or one of `-._~` as `%` and two hexadecimal digits.
  package var percentEncoded: String { PercentEncoding.encode(bytes: bytes) }

  /// For sentences.
  package var quoted: String {
    let shown = text ?? percentEncoded
    return shown.count > Self.shownLength ? "'\(shown.prefix(Self.shownLength))…'" : "'\(shown)'"
  }

  /// Characters of a name in a sentence.
  private static let shownLength = 80
}
