/// Bytes and numbers as hexadecimal digits, two for each byte.
package enum Hexadecimal {
  private static let lowerCase = Array("0123456789abcdef".utf8)

  /// Two lower-case digits for each byte.
  package static func text(of bytes: some Sequence<UInt8>) -> String {
    String(decoding: bytes.flatMap { [lowerCase[Int($0 >> 4)], lowerCase[Int($0 & 15)]] }, as: UTF8.self)
  }

  /// As many lower-case digits as the type has room for, with leading zeroes.
  package static func text(of number: some FixedWidthInteger) -> String {
    text(of: Swift.withUnsafeBytes(of: number.bigEndian) { Array($0) })
  }

  /// The bytes that `text` stands for; nil if it isn't pairs of digits. Either case is read.
  package static func bytes(of text: some StringProtocol) -> [UInt8]? {
    var bytes: [UInt8] = []
    var rest = text.utf8.makeIterator()
    while let first = rest.next() {
      guard let high = value(of: first), let low = rest.next().flatMap(value) else { return nil }
      bytes.append(high << 4 | low)
    }
    return bytes
  }

  /// What one digit, of either case, stands for.
  package static func value(of digit: UInt8) -> UInt8? {
    switch digit {
    case UInt8(ascii: "0")...UInt8(ascii: "9"): digit - UInt8(ascii: "0")
    case UInt8(ascii: "a")...UInt8(ascii: "f"): digit - UInt8(ascii: "a") + 10
    case UInt8(ascii: "A")...UInt8(ascii: "F"): digit - UInt8(ascii: "A") + 10
    default: nil
    }
  }
}
