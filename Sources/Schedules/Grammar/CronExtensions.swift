/// What some crons have in their day fields and others lack: `L`, `W`, `#` and `?`. They are refused, with the calendar
/// events that say the same.
struct CronExtensions {
  let day: TextPiece
  let weekday: TextPiece
  /// The time and the months, on every day.
  let frame: CalendarEvent

  /// Nil if there is no such sign.
  func fault() throws(ScheduleFault) -> ScheduleFault? {
    let hasDay = usesSigns(day, letters: "LW")
    let hasWeekday = usesSigns(weekday, letters: "L")
    guard hasDay || hasWeekday else { return nil }
    return (hasDay ? day : weekday).fault(
      "L, W, # and ? aren't cron's everywhere, and aren't taken",
      suggestions: try events(hasDay, hasWeekday).map(\.text))
  }

  private func usesSigns(_ field: TextPiece, letters: String) -> Bool {
    if field.contains("#") || field.contains("?") { return true }
    // The names of days hold no letter L or W beside wed.
    let text = field.text.uppercased().split(separator: ",").map { $0.replacing("WED", with: "") }
    return text.contains { item in item.contains { letters.contains($0) } }
  }

  /// Empty where no calendar events say the same, or none that are worth reading.
  private func events(_ hasDay: Bool, _ hasWeekday: Bool) throws(ScheduleFault) -> [CalendarEvent] {
    let days = day.text == "?" ? [frame] : hasDay ? Self.days(day.text.uppercased(), frame) : nil
    let weekdays = weekday.text == "?" ? [frame] : hasWeekday ? Self.weekdays(weekday, frame) : nil
    switch (days, weekdays) {
    case (let days?, nil) where !hasWeekday:
      let set = try NumberField.cronWeekday.read(weekday, .cron).values.map { ($0 + 6) % 7 }
      guard weekday.text == "*" || days == [frame] else { return [] }
      return days.map { $0.on(weekdays: weekday.text == "*" ? nil : SmallSet(set)) }
    case (nil, let weekdays?) where !hasDay:
      let set = try NumberField.day.read(day, .cron).set
      guard day.text == "*" || weekdays == [frame] else { return [] }
      return weekdays.map { event in
        var event = event
        if day.text != "*" { event.days = .fromStart(set) }
        return event
      }
    case (let days?, let weekdays?):
      return days == [frame] ? weekdays : weekdays == [frame] ? days : []
    default: return []
    }
  }

  /// `L` is the last day, `L-3` the third before it, `15W` the weekday nearest to the 15th, `LW` the last weekday.
  private static func days(_ text: String, _ frame: CalendarEvent) -> [CalendarEvent] {
    switch text {
    case "L": return [frame.on(.fromEnd(SmallSet([1])))]
    case "LW", "WL":
      return [
        frame.on(.fromEnd(SmallSet([1])), weekdays: workdays),
        frame.on(.fromEnd(SmallSet([2, 3])), weekdays: friday),
      ]
    case "1W":
      return [
        frame.on(.fromStart(SmallSet([1])), weekdays: workdays),
        frame.on(.fromStart(SmallSet([2, 3])), weekdays: monday),
      ]
    default: break
    }
    if text.hasPrefix("L-"), let before = Int(text.dropFirst(2)), (1...30).contains(before) {
      return [frame.on(.fromEnd(SmallSet([before + 1])))]
    }
    // From the 28th on the month's end comes into it.
    if text.hasSuffix("W"), let day = Int(text.dropLast()), (2...27).contains(day) {
      return [
        frame.on(.fromStart(SmallSet([day])), weekdays: workdays),
        frame.on(.fromStart(SmallSet([day - 1])), weekdays: friday),
        frame.on(.fromStart(SmallSet([day + 1])), weekdays: monday),
      ]
    }
    return []
  }

  /// `6#3` is the third Saturday, `5L` the last Friday.
  private static func weekdays(_ field: TextPiece, _ frame: CalendarEvent) -> [CalendarEvent] {
    if let (before, after) = field.halves("#"), let weekday = weekday(before.text), let week = after.number,
      (1...5).contains(week)
    {
      let days = SmallSet((week * 7 - 6)...min(week * 7, 31))
      return [frame.on(.fromStart(days), weekdays: weekday)]
    }
    let text = field.text.uppercased()
    if text.hasSuffix("L"), let weekday = weekday(String(text.dropLast())) {
      return [frame.on(.fromEnd(SmallSet(1...7)), weekdays: weekday)]
    }
    return []
  }

  private static func weekday(_ text: String) -> SmallSet? {
    let number = NumberField.cronWeekday.words[text.lowercased()] ?? Int(text)
    guard let number, (0...7).contains(number) else { return nil }
    return SmallSet([(number + 6) % 7])
  }

  private static let workdays = SmallSet(0...4)
  private static let monday = SmallSet([0])
  private static let friday = SmallSet([4])
}

extension CalendarEvent {
  fileprivate func on(_ days: DaysOfMonth? = nil, weekdays: SmallSet?) -> CalendarEvent {
    var event = self
    if let days { event.days = days }
    if let weekdays { event.weekdays = weekdays }
    return event
  }

  fileprivate func on(_ days: DaysOfMonth) -> CalendarEvent { on(days, weekdays: nil) }
}
