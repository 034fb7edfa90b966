/// Five fields: minute, hour, day of the month, month, day of the week (POSIX crontab, with the steps and names of cron).
struct CronParser {
  private let fields: [TextPiece]

  init(_ fields: [TextPiece]) { self.fields = fields }

  func parse() throws(ScheduleFault) -> ScheduleParser.Parsed {
    let (event, dayField, weekdayField) = (try frame(), fields[2], fields[4])
    if let fault = try CronExtensions(day: dayField, weekday: weekdayField, frame: event).fault() { throw fault }
    var byDate = event
    byDate.days = .fromStart(try NumberField.day.read(dayField, .cron).set)
    var byWeekday = event
    byWeekday.weekdays = SmallSet(try NumberField.cronWeekday.read(weekdayField, .cron).values.map { ($0 + 6) % 7 })
    // A field that begins with * restricts nothing by itself, as crontab(5) has it: a day must then match both.
    guard dayField.isRestricted, weekdayField.isRestricted else {
      byDate.weekdays = byWeekday.weekdays
      return ScheduleParser.Parsed(events: [byDate], dates: dayField.through(weekdayField))
    }
    return ScheduleParser.Parsed(
      events: [byDate, byWeekday], cron: Self.normalized(byDate, byWeekday), dates: dayField.through(weekdayField))
  }

  /// Its time and its months, on every day.
  private func frame() throws(ScheduleFault) -> CalendarEvent {
    var event = CalendarEvent()
    let hours = try NumberField.hour.read(fields[1].allowed(), .cron)
    event.minutes = try NumberField.minute.read(fields[0].allowed(), .cron).set
    event.hours = hours.set
    event.shape = hours.isInterval ? .interval : .timesOfDay
    event.months = try NumberField.cronMonth.read(fields[3].allowed(), .cron).set
    return event
  }

  /// The cron line of which either day field is enough. A full field is written as a range, because `*` would restrict
  /// nothing.
  private static func normalized(_ byDate: CalendarEvent, _ byWeekday: CalendarEvent) -> String {
    guard case .fromStart(let days) = byDate.days else { return "" }
    let weekdays = SmallSet(byWeekday.weekdays.numbers.map { ($0 + 1) % 7 })
    return [
      NumberText.cron(byDate.minutes, 0...59), NumberText.cron(byDate.hours, 0...23, keeping: byDate.shape),
      NumberText.cronRestricted(days, 1...31), NumberText.cron(byDate.months, 1...12),
      NumberText.cronRestricted(weekdays, 0...6),
    ].joined(separator: " ")
  }
}

extension TextPiece {
  var isRestricted: Bool { !text.hasPrefix("*") }

  /// The field, if it has none of the signs that only the day fields of other crons have.
  fileprivate func allowed() throws(ScheduleFault) -> TextPiece {
    guard contains("?") || contains("#") else { return self }
    throw fault("L, W, # and ? aren't cron's everywhere, and aren't taken")
  }
}
