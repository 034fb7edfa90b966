/// A run of bytes on a device: `offset` and `length` in bytes. `end` never overflows.
package struct ByteRange: Hashable, Sendable {
  package var offset: UInt64
  package var length: UInt64

  /// - Precondition: `offset + length` fits in 64 bits.
  package init(offset: UInt64, length: UInt64) {
    precondition(!offset.addingReportingOverflow(length).overflow, "byte range past 2^64")
    self.offset = offset
    self.length = length
  }

  package init(_ range: Range<UInt64>) {
    self.init(offset: range.lowerBound, length: range.upperBound - range.lowerBound)
  }

  /// The first byte after the range.
  package var end: UInt64 { offset + length }
  package var isEmpty: Bool { length == 0 }
  package var range: Range<UInt64> { offset..<end }

  /// True if some byte is in both; an empty range overlaps nothing.
  package func overlaps(_ other: ByteRange) -> Bool {
    max(offset, other.offset) < min(end, other.end)
  }

  package func contains(_ other: ByteRange) -> Bool {
    other.offset >= offset && other.end <= end
  }

  /// The bytes in both ranges, or nil if there are none.
  package func intersection(_ other: ByteRange) -> ByteRange? {
    let start = max(offset, other.offset)
    let end = min(end, other.end)
    return start < end ? ByteRange(start..<end) : nil
  }

  /// The smallest range of whole `alignment` units that covers this one; empty if this one is.
  /// - Precondition: its end fits in 64 bits.
  package func aligned(to alignment: UInt64) -> ByteRange {
    precondition(alignment > 0)
    let start = offset / alignment * alignment
    guard !isEmpty else { return ByteRange(offset: start, length: 0) }
    let (quotient, remainder) = end.quotientAndRemainder(dividingBy: alignment)
    return ByteRange(start..<((remainder == 0 ? quotient : quotient + 1) * alignment))
  }
}

extension ByteRange: CustomStringConvertible {
  package var description: String { "[\(offset), \(end))" }
}

extension ByteRange: Codable {
  private enum CodingKeys: CodingKey { case offset, length }

  /// Refuses a range that ends past 2^64.
  package init(from decoder: any Decoder) throws {
    let container = try decoder.container(keyedBy: CodingKeys.self)
    let offset = try container.decode(UInt64.self, forKey: .offset)
    let length = try container.decode(UInt64.self, forKey: .length)
    guard !offset.addingReportingOverflow(length).overflow else {
      throw DecodingError.dataCorruptedError(
        forKey: .length, in: container, debugDescription: "a range of bytes that ends past 2^64")
    }
    self.init(offset: offset, length: length)
  }
}
