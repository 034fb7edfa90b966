extension YearlyRule {
  /// Reads e.g. `CET-1CEST,M3.5.0,M10.5.0/3`; nil if it isn't that.
  init?(_ text: some StringProtocol) {
    var reader = RuleReader(bytes: Array(text.utf8))
    guard reader.skipName(), let offset = reader.offset() else { return nil }
    self.offset = -offset
    if reader.isAtEnd { return }
    guard reader.skipName() else { return nil }
    var summer = self.offset + 3600
    if reader.peek != UInt8(ascii: ",") {
      guard let offset = reader.offset() else { return nil }
      summer = -offset
    }
    guard reader.skip(","), let start = reader.change(), reader.skip(","), let end = reader.change(), reader.isAtEnd
    else { return nil }
    self.summer = Summer(offset: summer, start: start, end: end)
  }
}

private struct RuleReader {
  let bytes: [UInt8]
  private var position = 0

  init(bytes: [UInt8]) { self.bytes = bytes }

  var isAtEnd: Bool { position == bytes.count }
  var peek: UInt8? { position < bytes.count ? bytes[position] : nil }

  mutating func skip(_ character: Character) -> Bool {
    guard let byte = character.asciiValue, peek == byte else { return false }
    position += 1
    return true
  }

  /// Letters, or anything in `<>`.
  mutating func skipName() -> Bool {
    if skip("<") {
      while let byte = peek, byte != UInt8(ascii: ">") { position += byte == 0 ? bytes.count : 1 }
      return skip(">")
    }
    let start = position
    while let byte = peek, (0x41...0x5A).contains(byte & 0xDF) { position += 1 }
    return position - start >= 3
  }

  /// `[+-]hh[:mm[:ss]]` in seconds; hours up to 167.
  mutating func offset() -> Int? {
    let isNegative = skip("-")
    if !isNegative { _ = skip("+") }
    guard var seconds = number(167).map({ $0 * 3600 }) else { return nil }
    for unit in [60, 1] where skip(":") {
      guard let value = number(59) else { return nil }
      seconds += value * unit
    }
    return isNegative ? -seconds : seconds
  }

  mutating func change() -> YearlyRule.Change? {
    guard let day = day() else { return nil }
    guard skip("/") else { return YearlyRule.Change(day: day, time: 7200) }
    return offset().map { YearlyRule.Change(day: day, time: $0) }
  }

  private mutating func day() -> YearlyRule.Change.Day? {
    if skip("J") { return number(365).flatMap { $0 > 0 ? .withoutLeapDay($0) : nil } }
    guard skip("M") else { return number(365).map { .ofYear($0) } }
    guard let month = number(12), month > 0, skip("."), let week = number(5), week > 0, skip("."),
      let weekday = number(6)
    else { return nil }
    return .weekday((weekday + 6) % 7, week: week, month: month)
  }

  private mutating func number(_ most: Int) -> Int? {
    var value: Int?
    while let byte = peek, (0x30...0x39).contains(byte) {
      value = (value ?? 0) * 10 + Int(byte - 0x30)
      guard value ?? 0 <= most else { return nil }
      position += 1
    }
    return value
  }
}
