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

  /// The one that sorts right after it.
  package var next: ULID {
    let (next, overflow) = low.addingReportingOverflow(1)
    return ULID(high: overflow ? high &+ 1 : high, low: next)
  }

  /// When it was made, to the millisecond.
  package var date: Date { Date(timeIntervalSince1970: Double(high >> 16) / 1000) }

  /// Reads the text form, in upper or lower case; nil if it isn't one.
  package init?(_ text: some StringProtocol) {
    guard text.utf8.count == Self.characterCount else { return nil }
    var high: UInt64 = 0
    var low: UInt64 = 0
    var isFirst = true
    for character in text.utf8 {
      let value = Self.values[Int(character)]
      guard value <= (isFirst ? 7 : 31) else { return nil }
      isFirst = false
      high = high << 5 | low >> 59
      low = low << 5 | UInt64(value)
    }
    self.init(high: high, low: low)
  }

  package static let characterCount = 26
  private static let alphabet = Array("0123456789ABCDEFGHJKMNPQRSTVWXYZ".utf8)

  /// Of each character, in upper and lower case; 255 for those that aren't in the alphabet. A page of a list reads
  /// thousands of ids.
  private static let values: [UInt8] = {
    var values = [UInt8](repeating: .max, count: 256)
    for (value, character) in alphabet.enumerated() {
      values[Int(character)] = UInt8(value)
      if character >= UInt8(ascii: "A") { values[Int(character) + 32] = UInt8(value) }
    }
    return values
  }()
}

extension ULID: CustomStringConvertible {
  package var description: String {
    var high = high
    var low = low
    return String(unsafeUninitializedCapacity: Self.characterCount) { characters in
      for index in (0..<Self.characterCount).reversed() {
        characters[index] = Self.alphabet[Int(low & 31)]
        low = low >> 5 | high << 59
        high >>= 5
      }
      return Self.characterCount
    }
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
