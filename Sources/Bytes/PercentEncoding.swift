/// The percent encoding of RFC 3986, section 2.1.
package enum PercentEncoding {
  /// The bytes that `text` stands for: each `%HH` is decoded once, `%00` and `%2F` too.
  ///
  /// - Parameter plusIsSpace: `+` stands for a space, as in the query of an HTML form.
  /// - Returns: `nil` if a `%` isn't followed by two hexadecimal digits.
  package static func decode(_ text: Substring, plusIsSpace: Bool = false) -> [UInt8]? {
    var bytes: [UInt8] = []
    bytes.reserveCapacity(text.utf8.count)
    var rest = text.utf8.makeIterator()
    while let byte = rest.next() {
      switch byte {
      case UInt8(ascii: "%"):
        guard let high = rest.next().flatMap(Hexadecimal.value), let low = rest.next().flatMap(Hexadecimal.value) else {
          return nil
        }
        bytes.append(high << 4 | low)
      case UInt8(ascii: "+") where plusIsSpace: bytes.append(UInt8(ascii: " "))
      default: bytes.append(byte)
      }
    }
    return bytes
  }

  /// The text that `text` stands for; nil for a broken escape, a NUL, or what is no UTF-8.
  package static func decodedText(_ text: Substring, plusIsSpace: Bool = false) -> String? {
    guard let bytes = decode(text, plusIsSpace: plusIsSpace), !bytes.contains(0) else { return nil }
    return String(validating: bytes, as: UTF8.self)
  }

  /// `segment` of a path with all encoded that isn't unreserved (section 2.3): slashes too.
  package static func encode(segment: some StringProtocol) -> String { encode(segment.utf8, sparing: []) }

  /// `path` with all encoded that isn't unreserved; its slashes stay.
  package static func encode(path: some StringProtocol) -> String { encode(path.utf8, sparing: [UInt8(ascii: "/")]) }

  /// Any bytes, with all encoded that isn't unreserved.
  package static func encode(bytes: some Sequence<UInt8>) -> String { encode(bytes, sparing: []) }

  private static func encode(_ bytes: some Sequence<UInt8>, sparing spared: [UInt8]) -> String {
    bytes.reduce(into: "") { text, byte in
      if isUnreserved(byte) || spared.contains(byte) {
        text.unicodeScalars.append(Unicode.Scalar(byte))
      } else {
        text += "%" + Hexadecimal.text(of: byte).uppercased()
      }
    }
  }

  private static func isUnreserved(_ byte: UInt8) -> Bool {
    switch byte {
    case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
      UInt8(ascii: "0")...UInt8(ascii: "9"):
      true
    default: "-._~".utf8.contains(byte)
    }
  }
}
