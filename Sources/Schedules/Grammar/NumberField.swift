/// One field of a schedule: what its numbers may be, and how they are read.
struct NumberField: Sendable {
  /// In words, singular with its article.
  let name: String
  let range: ClosedRange<Int>
  /// Words that stand for numbers, in lower case.
  var words: [String: Int] = [:]
  /// Whether words may be written out beyond their first three letters.
  var takesLongWords = false

  /// How lists are written.
  enum Notation {
    /// Ranges are `a-b`; a step needs `*` or a range.
    case cron
    /// Ranges are `a..b`; `a/step` counts to the end.
    case calendar
    /// As ``calendar``, of days counted from the month's end: `a/step` counts towards the end.
    case calendarFromEnd
  }

  struct Numbers {
    /// In ascending order, each once; never empty.
    var values: [Int]
    /// Whether a `*`, a range or a step stands in the list.
    var isInterval = false

    var set: SmallSet { SmallSet(values) }
  }

  static let minute = NumberField(name: "a minute", range: 0...59)
  static let hour = NumberField(name: "an hour", range: 0...23)
  static let second = NumberField(name: "a second", range: 0...59)
  static let day = NumberField(name: "a day of the month", range: 1...31)
  static let month = NumberField(name: "a month", range: 1...12)
  static let year = NumberField(name: "a year", range: CalendarEvent.years)
  static let cronMonth = NumberField(
    name: "a month", range: 1...12,
    words: Dictionary(uniqueKeysWithValues: Names.months.enumerated().map { ($1.short, $0 + 1) }))
  /// 0 is Monday.
  static let weekday = NumberField(
    name: "a day of the week", range: 0...6,
    words: Dictionary(uniqueKeysWithValues: Names.weekdays.enumerated().map { ($1.short, $0) }), takesLongWords: true)
  /// 0 and 7 are Sunday.
  static let cronWeekday = NumberField(
    name: "a day of the week", range: 0...7,
    words: Dictionary(uniqueKeysWithValues: Names.weekdays.enumerated().map { ($1.short, ($0 + 1) % 7) }))

  func read(_ piece: TextPiece, _ notation: Notation) throws(ScheduleFault) -> Numbers {
    var found: Set<Int> = []
    var isInterval = false
    for item in piece.split(",") {
      guard !item.isEmpty else { throw item.fault("\(name) is missing") }
      let (head, step) = try steps(item)
      let (first, last, isRange) = try bounds(head, notation, hasStep: step != nil)
      isInterval = isInterval || isRange || step != nil
      // Days from the end are counted downwards, so that a step goes on in time.
      if notation == .calendarFromEnd {
        found.formUnion(
          stride(from: isRange ? last : first, through: isRange ? first : 1, by: -(step ?? (isRange ? 1 : first))))
      } else {
        found.formUnion(stride(from: first, through: last, by: step ?? 1))
      }
    }
    return Numbers(values: found.sorted(), isInterval: isInterval)
  }

  private func steps(_ item: TextPiece) throws(ScheduleFault) -> (head: TextPiece, step: Int?) {
    guard let (head, step) = item.halves("/") else { return (item, nil) }
    guard let number = step.number else { throw step.fault("a step is a number") }
    guard number > 0 else { throw step.fault("a step is at least 1") }
    guard number <= range.upperBound else {
      throw step.fault("the step is larger than \(name) can be: the last is \(range.upperBound)")
    }
    return (head, number)
  }

  /// The first and last number that an item without its step means.
  private func bounds(
    _ head: TextPiece, _ notation: Notation, hasStep: Bool
  ) throws(ScheduleFault) -> (first: Int, last: Int, isRange: Bool) {
    if head.text == "*" {
      guard notation != .calendarFromEnd else { throw head.fault("days from the end of the month are numbers") }
      return (range.lowerBound, range.upperBound, true)
    }
    let separator = notation == .cron ? "-" : ".."
    if let (before, after) = head.halves(separator) {
      let first = try number(before, in: head)
      var last = try number(after, in: head)
      // Sunday ends a week as well as it begins one.
      if range.upperBound == 7, last == 0, after.number == nil { last = 7 }
      guard first <= last else {
        throw head.fault("the range is reversed: write it as a list, or as two ranges")
      }
      return (first, last, true)
    }
    let value = try number(head, in: head)
    guard hasStep else { return (value, value, false) }
    guard notation != .cron else {
      throw head.fault("a step needs * or a range in front of it, as \(value)-\(range.upperBound)")
    }
    return (value, notation == .calendar ? range.upperBound : 1, false)
  }

  private func number(_ piece: TextPiece, in item: TextPiece) throws(ScheduleFault) -> Int {
    guard !piece.isEmpty else { throw item.fault("\(name) is missing") }
    if let value = word(piece.lowercased) { return value }
    // Weekdays of calendar events are words only.
    guard !takesLongWords, let value = piece.number else {
      throw piece.fault("this isn't \(name)")
    }
    guard range.contains(value) else {
      throw piece.fault("\(name) is from \(range.lowerBound) to \(range.upperBound)")
    }
    return value
  }

  private func word(_ text: String) -> Int? {
    guard !words.isEmpty, text.utf8.count >= 3 else { return nil }
    guard takesLongWords else { return words[text] }
    return words[String(text.prefix(3))].flatMap {
      Names.weekdays[$0].full.lowercased() == text || text.utf8.count == 3 ? $0 : nil
    }
  }
}
