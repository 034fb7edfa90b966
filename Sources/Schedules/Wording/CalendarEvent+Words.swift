extension CalendarEvent {
  // MARK: Days

  /// E.g. `on Saturdays among the 15th to 21st of every month`; nil if it is every day.
  var daysInWords: String? {
    let weekdays = weekdays == Self.everyWeekday ? nil : weekdaysInWords
    guard !hasEveryDate else { return weekdays }
    let years = years.map { " in " + Self.listed($0) { "\($0)" } } ?? ""
    if days == .fromStart(Self.everyDay) {
      let months = months == Self.everyMonth ? "" : " in " + monthNames
      return (weekdays ?? "every day") + months + years
    }
    let months = months == Self.everyMonth ? "every month" : monthNames
    let dates = "\(dayNumbersInWords) of \(months)\(years)"
    return weekdays.map { "\($0) among \(dates)" } ?? "on \(dates)"
  }

  private var weekdaysInWords: String {
    let runs = NumberText.consecutive(weekdays.numbers)
    if runs.count == 1, runs[0].count > 2 {
      return "\(Names.weekdays[runs[0].lowerBound].full) to \(Names.weekdays[runs[0].upperBound].full)"
    }
    return "on " + weekdays.numbers.map { Names.weekdays[$0].full + "s" }.joinedInWords()
  }

  private var monthNames: String { Self.listed(months.numbers) { Names.months[$0 - 1].full } }

  private var dayNumbersInWords: String {
    switch days {
    case .fromStart(let set): return "the " + Self.listed(set.numbers, Names.ordinal)
    case .fromEnd(let set):
      let numbers = set.numbers
      if numbers == Array(1...numbers.count) {
        return numbers.count == 1 ? "the last day" : "the last \(numbers.count) days"
      }
      return "the " + Self.listed(numbers) { $0 == 1 ? "last" : "\(Names.ordinal($0)) last" }
        + (numbers.count == 1 ? " day" : " days")
    }
  }

  // MARK: Times

  /// Times of day that are listed one by one.
  private static let mostTimes = 6

  /// E.g. `at 02:30`, `every 15 minutes from 08:00 to 17:45`.
  var timeInWords: String {
    if shape == .timesOfDay, hours.count * minutes.count * seconds.count <= Self.mostTimes {
      return "at " + timesOfDay.map(\.timeText).joinedInWords()
    }
    if seconds == SmallSet([0]) { return minutesInWords }
    let unit = seconds.count == 1 ? "second" : "seconds"
    let isEveryMinute = minutes == Self.everyMinute
    guard isEveryMinute, let often = Self.often(seconds, 60, "second") else {
      let first = minutesInWords
      return "\(first), at \(unit) \(Self.listed(seconds.numbers) { "\($0)" })"
    }
    return often + (hours == Self.everyHour ? "" : " \(hoursInWords)")
  }

  private var timesOfDay: [WallTime] {
    hours.numbers.flatMap { hour in
      minutes.numbers.flatMap { minute in
        seconds.numbers.map { WallTime(hour * 3600 + minute * 60 + $0) }
      }
    }
  }

  private var minutesInWords: String {
    let isEveryHour = hours == Self.everyHour
    if minutes != SmallSet([0]), let often = Self.often(minutes, 60, "minute") {
      return isEveryHour ? often : "\(often) \(hoursInWords)"
    }
    let atMinutes =
      minutes == SmallSet([0])
      ? "" : " at minute\(minutes.count == 1 ? "" : "s") \(Self.listed(minutes.numbers) { "\($0)" })"
    if isEveryHour { return "every hour\(atMinutes)" }
    if let often = Self.often(hours, 24, "hour") { return often + atMinutes }
    if shape == .interval, hours.count > 1, hours.count == NumberText.consecutive(hours.numbers)[0].count {
      return "every hour\(atMinutes) \(hoursInWords)"
    }
    return atMinutes.isEmpty ? "at \(hoursOnTheHour)" : "\(atMinutes.dropFirst()) \(hoursInWords)"
  }

  private var hoursOnTheHour: String { hours.numbers.map { "\($0.padded(2)):00" }.joinedInWords() }

  /// E.g. `in the hours 8 to 17`.
  private var hoursInWords: String {
    "in the hour\(hours.count == 1 ? "" : "s") " + Self.listed(hours.numbers) { "\($0)" }
  }

  /// E.g. `every 15 minutes`, where the numbers go evenly through the whole unit from 0 on.
  private static func often(_ set: SmallSet, _ whole: Int, _ unit: String) -> String? {
    let numbers = set.numbers
    if numbers.count == whole { return "every \(unit)" }
    guard numbers[0] == 0, let step = NumberText.progression(numbers, 0...whole - 1), whole % step == 0 else {
      return nil
    }
    return "every \(step) \(unit)s"
  }

  /// E.g. `1, 3 and 8 to 17`.
  private static func listed(_ numbers: [Int], _ name: (Int) -> String) -> String {
    NumberText.consecutive(numbers).flatMap { run in
      run.count > 2 ? ["\(name(run.lowerBound)) to \(name(run.upperBound))"] : run.map(name)
    }.joinedInWords()
  }
}
