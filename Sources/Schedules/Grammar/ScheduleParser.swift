/// Tells the notations apart: five fields without a `:` are cron; then come the words; everything else is a calendar event.
enum ScheduleParser {
  struct Parsed {
    var events: [CalendarEvent]
    /// The normal form where it is a cron line.
    var cron: String?
    /// The part that says on which dates it runs.
    var dates: TextPiece
  }

  static func parse(_ whole: TextPiece) throws(ScheduleFault) -> Parsed {
    let words = whole.words
    let hasColon = whole.contains(":")
    if words[0].text.hasPrefix("@") { return try cronWord(words) }
    if words.count == 5, !hasColon { return try CronParser(words).parse() }
    if words.count == 1, let event = event(named: words[0].lowercased) {
      return Parsed(events: [event], dates: words[0])
    }
    if words.count == 6, !hasColon {
      throw words[5].fault("cron has five fields here, without seconds; a calendar event can have seconds, as *:*:0/10")
    }
    return try CalendarParser.parse(words)
  }

  /// The calendar events that have a name.
  private static func event(named name: String) -> CalendarEvent? {
    var event = CalendarEvent()
    switch name {
    case "minutely":
      (event.hours, event.shape, event.minutes) = (CalendarEvent.everyHour, .interval, CalendarEvent.everyMinute)
    case "hourly": (event.hours, event.shape) = (CalendarEvent.everyHour, .interval)
    case "daily": break
    case "weekly": event.weekdays = SmallSet([0])
    case "monthly": event.days = .fromStart(SmallSet([1]))
    case "quarterly": (event.days, event.months) = (.fromStart(SmallSet([1])), SmallSet([1, 4, 7, 10]))
    case "semiannually": (event.days, event.months) = (.fromStart(SmallSet([1])), SmallSet([1, 7]))
    case "yearly", "annually": (event.days, event.months) = (.fromStart(SmallSet([1])), SmallSet([1]))
    default: return nil
    }
    return event
  }

  /// As crontab(5) has them: a week begins on Sunday there.
  private static func cronWord(_ words: [TextPiece]) throws(ScheduleFault) -> Parsed {
    guard words.count == 1 else { throw words[1].fault("nothing can follow '\(words[0].text)'") }
    let name = words[0].lowercased
    guard ["@hourly", "@daily", "@midnight", "@weekly", "@monthly", "@yearly", "@annually"].contains(name) else {
      throw words[0].fault("the words with @ are @hourly, @daily, @weekly, @monthly and @yearly")
    }
    if name == "@weekly" {
      var event = CalendarEvent()
      event.weekdays = SmallSet([6])
      return Parsed(events: [event], dates: words[0])
    }
    let plain = name == "@midnight" ? "daily" : String(name.dropFirst())
    return Parsed(events: [event(named: plain) ?? CalendarEvent()], dates: words[0])
  }
}
