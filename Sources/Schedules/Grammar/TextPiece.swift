/// A part of a schedule's text that knows its place, so that a fault can name it.
struct TextPiece {
  /// The whole text: printable ASCII, so that bytes are characters.
  private let bytes: [UInt8]
  let place: Range<Int>

  /// The whole text, without the blanks around it.
  init(schedule text: String) throws(ScheduleFault) {
    let bytes = Array(text.utf8)
    self.init(bytes: bytes, place: 0..<bytes.count)
    guard bytes.count <= Schedule.maximumLength else {
      throw at(Schedule.maximumLength).fault("a schedule has at most \(Schedule.maximumLength) bytes")
    }
    if let index = bytes.firstIndex(where: { !($0 == 0x09 || (0x20..<0x7F).contains($0)) }) {
      throw ScheduleFault(
        kind: .grammar, reason: "only printable ASCII characters can stand in a schedule", place: index..<index + 1,
        piece: "byte 0x" + String(bytes[index], radix: 16), suggestions: [])
    }
    guard bytes.contains(where: { !Self.isBlank($0) }) else { throw at(bytes.count).fault("the schedule is empty") }
  }

  private init(bytes: [UInt8], place: Range<Int>) {
    self.bytes = bytes
    self.place = place
  }

  private static func isBlank(_ byte: UInt8) -> Bool { byte == 0x20 || byte == 0x09 }

  var text: String { String(decoding: bytes[place], as: UTF8.self) }
  var lowercased: String { text.lowercased() }
  var isEmpty: Bool { place.isEmpty }
  var startsWithLetter: Bool { bytes[place].first.map { ($0 | 0x20) >= 0x61 && ($0 | 0x20) <= 0x7A } ?? false }

  func contains(_ part: String) -> Bool { halves(part) != nil }

  private func at(_ index: Int) -> TextPiece { TextPiece(bytes: bytes, place: index..<index) }

  /// From this piece's start to the other's end.
  func through(_ other: TextPiece) -> TextPiece {
    TextPiece(bytes: bytes, place: place.lowerBound..<Swift.max(place.upperBound, other.place.upperBound))
  }

  /// The parts between blanks; none is empty.
  var words: [TextPiece] { parts(between: Self.isBlank).filter { !$0.isEmpty } }

  /// The parts between separators, empty ones too.
  func split(_ separator: Character) -> [TextPiece] { parts { $0 == separator.asciiValue } }

  private func parts(between isSeparator: (UInt8) -> Bool) -> [TextPiece] {
    var parts: [TextPiece] = []
    var start = place.lowerBound
    for index in place where isSeparator(bytes[index]) {
      parts.append(TextPiece(bytes: bytes, place: start..<index))
      start = index + 1
    }
    return parts + [TextPiece(bytes: bytes, place: start..<place.upperBound)]
  }

  /// What stands before and after the first `separator`; nil if it isn't there.
  func halves(_ separator: String) -> (before: TextPiece, after: TextPiece)? {
    let wanted = Array(separator.utf8)
    guard place.count >= wanted.count else { return nil }
    for start in place.lowerBound...place.upperBound - wanted.count
    where bytes[start..<start + wanted.count].elementsEqual(wanted) {
      return (
        TextPiece(bytes: bytes, place: place.lowerBound..<start),
        TextPiece(bytes: bytes, place: start + wanted.count..<place.upperBound)
      )
    }
    return nil
  }

  /// A number of at most four digits.
  var number: Int? {
    guard (1...4).contains(place.count), bytes[place].allSatisfy({ (0x30...0x39).contains($0) }) else { return nil }
    return Int(text)
  }

  func fault(
    _ reason: String, kind: ScheduleFault.Kind = .grammar, suggestions: [String] = []
  ) -> ScheduleFault {
    ScheduleFault(kind: kind, reason: reason, place: place, piece: text, suggestions: suggestions)
  }
}
