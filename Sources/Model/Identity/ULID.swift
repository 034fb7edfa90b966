import Foundation

/// A ULID (github.com/ulid/spec): 48 bits of Unix milliseconds, then 80 random bits, written as 26 Crockford
/// base-32 characters. Sorts by time of creation, as bytes and as text.
///
/// It is hand-written because two integers and one table are less than a dependency, and because ids are read strictly:
/// letters that the alphabet leaves out aren't taken for others.
package struct ULID: Hashable, Sendable {
  package let high: UInt64
  package let low: UInt64

  package init(high: UInt64, low: UInt64) {
    self.high = high
    self.low = low
  }

  /// A new one for `date`, unique by its random bits.
  package init(at date: Date = Date()) {
    var random = SystemRandomNumberGenerator()
    let milliseconds = UInt64(max(0, (date.timeIntervalSince1970 * 1000).rounded()))
    high = milliseconds << 16 | UInt64.random(in: 0...0xFFFF, using: &random)
    low = random.next()
  }

  /// When it was made, to the millisecond.
  package var date: Date { Date(timeIntervalSince1970: Double(high >> 16) / 1000) }

  /// Reads the text form, in upper or lower case; nil if it isn't one.
  package init?(_ text: some StringProtocol) {
    let characters = Array(text.utf8)
    guard characters.count == Self.characterCount else { return nil }
    var high: UInt64 = 0
    var low: UInt64 = 0
    for (index, character) in characters.enumerated() {
      guard let value = Self.value(of: character), index > 0 || value <= 7 else { return nil }
      high = high << 5 | low >> 59
      low = low << 5 | UInt64(value)
    }
    self.init(high: high, low: low)
  }

  package static let characterCount = 26
  private static let alphabet = Array("0123456789ABCDEFGHJKMNPQRSTVWXYZ".utf8)

  private static func value(of character: UInt8) -> Int? {
    let upper = character >= UInt8(ascii: "a") && character <= UInt8(ascii: "z") ? character - 32 : character
    return alphabet.firstIndex(of: upper)
  }
}

extension ULID: CustomStringConvertible {
  package var description: String {
    var high = high
    var low = low
    var characters = [UInt8](repeating: 0, count: Self.characterCount)
    for index in characters.indices.reversed() {
      characters[index] = Self.alphabet[Int(low & 31)]
      low = low >> 5 | high << 59
      high >>= 5
    }
    return String(decoding: characters, as: UTF8.self)
  }
}

extension ULID: Comparable {
  package static func < (left: ULID, right: ULID) -> Bool {
    (left.high, left.low) < (right.high, right.low)
  }
}

extension ULID: Codable {
  package init(from decoder: any Decoder) throws {
    let container = try decoder.singleValueContainer()
    let text = try container.decode(String.self)
    guard let ulid = ULID(text) else {
      throw DecodingError.dataCorruptedError(in: container, debugDescription: "'\(text)' is not a ULID")
    }
    self = ulid
  }

  package func encode(to encoder: any Encoder) throws {
    var container = encoder.singleValueContainer()
    try container.encode(description)
  }
}
