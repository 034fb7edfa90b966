/// Calendar events as systemd.time(7) has them: `[weekdays] [[year-]month-day] [hour:minute[:second]]`. Days that are
/// counted from the month's end follow a `~`: `*-*~1` is the last day. `*/2` is taken beside systemd's `0/2`.
enum CalendarParser {
  static func parse(_ words: [TextPiece]) throws(ScheduleFault) -> ScheduleParser.Parsed {
    var event = CalendarEvent()
    var rest = words[...]
    var dates: TextPiece?
    if let first = rest.first, first.startsWithLetter {
      event.weekdays = try weekdays(first)
      dates = rest.removeFirst()
    }
    if let word = rest.first, !word.contains(":"), word.contains("-") || word.contains("~") {
      try readDate(word, into: &event)
      dates = dates?.through(word) ?? word
      rest.removeFirst()
    }
    if let word = rest.first, word.contains(":") {
      try readTime(word, into: &event)
      rest.removeFirst()
    }
    if let word = rest.first { throw misplaced(word, isLast: word.place == words.last?.place) }
    return ScheduleParser.Parsed(events: [event], dates: dates ?? words[0].through(words[words.count - 1]))
  }

  private static func misplaced(_ word: TextPiece, isLast: Bool) -> ScheduleFault {
    if word.startsWithLetter {
      return word.fault(
        isLast
          ? "weekdays come first, and a time zone isn't part of a schedule: it has a field of its own"
          : "weekdays come first, then the date, then the time")
    }
    return word.fault(
      "this is none of [weekdays] [[year-]month-day] [hour:minute[:second]], nor one of cron's five fields")
  }

  private static func weekdays(_ word: TextPiece) throws(ScheduleFault) -> SmallSet {
    if word.contains("-"), !word.contains("..") { throw word.fault("a range of weekdays is written mon..fri") }
    if NumberField.weekday.words[String(word.lowercased.prefix(3))] == nil {
      throw word.fault(
        "this is no weekday, and none of minutely, hourly, daily, weekly, monthly, quarterly, semiannually, yearly")
    }
    if word.contains("/") { throw word.fault("weekdays have no steps") }
    return try NumberField.weekday.read(word, .calendar).set
  }

  private static func readDate(_ word: TextPiece, into event: inout CalendarEvent) throws(ScheduleFault) {
    var front = word
    if let (before, after) = word.halves("~") {
      event.days = .fromEnd(try NumberField.day.read(after, .calendarFromEnd).set)
      front = before
    } else {
      let parts = word.split("-")
      let day = parts[parts.count - 1]
      event.days = .fromStart(try NumberField.day.read(day, .calendar).set)
      front = parts.count > 2 ? parts[0].through(parts[parts.count - 2]) : parts[0]
    }
    let parts = front.split("-")
    guard parts.count <= 2 else { throw word.fault("a date is [year-]month-day; a range is written 1..7") }
    let month = parts[parts.count - 1]
    if month.number ?? 0 > 99, parts.count == 1 { throw word.fault("a date is [year-]month-day") }
    event.months = try NumberField.month.read(month, .calendar).set
    guard parts.count == 2 else { return }
    let years = try NumberField.year.read(parts[0], .calendar)
    if years.values.count < CalendarEvent.years.count { event.years = years.values }
  }

  private static func readTime(_ word: TextPiece, into event: inout CalendarEvent) throws(ScheduleFault) {
    let parts = word.split(":")
    guard (2...3).contains(parts.count) else { throw word.fault("a time is hour:minute[:second]") }
    let hours = try NumberField.hour.read(parts[0], .calendar)
    event.hours = hours.set
    event.shape = hours.isInterval ? .interval : .timesOfDay
    event.minutes = try NumberField.minute.read(parts[1], .calendar).set
    if parts.count == 3 {
      event.seconds = try NumberField.second.read(parts[2], .calendar).set
    }
  }
}
