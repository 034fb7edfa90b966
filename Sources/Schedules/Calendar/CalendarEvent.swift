/// One rule of when something happens: days by their date and weekday, and times on those days.
///
/// A date matches if its year, month, day and weekday all do.
package struct CalendarEvent: Hashable, Sendable {
  package enum DaysOfMonth: Hashable, Sendable {
    /// 1 is the first day of the month.
    case fromStart(SmallSet)
    /// 1 is the last day of the month.
    case fromEnd(SmallSet)
  }

  /// What happens on days when the clock changes, see ``EventRuns``.
  package enum Shape: Hashable, Sendable {
    /// The hours are single values: each time of day runs once a day.
    case timesOfDay
    /// The hours are `*`, a step or a range, or a list with one of these in it: runs go by elapsed time.
    case interval
  }

  /// 0 is Monday, 6 Sunday.
  package var weekdays = Self.everyWeekday
  /// In ascending order; nil is every year.
  package var years: [Int]?
  package var months = Self.everyMonth
  package var days = DaysOfMonth.fromStart(Self.everyDay)
  package var hours = SmallSet([0])
  package var minutes = SmallSet([0])
  package var seconds = SmallSet([0])
  package var shape = Shape.timesOfDay

  package static let everyWeekday = SmallSet(0...6)
  package static let everyMonth = SmallSet(1...12)
  package static let everyDay = SmallSet(1...31)
  package static let everyHour = SmallSet(0...23)
  package static let everyMinute = SmallSet(0...59)

  /// Years that a schedule may name.
  package static let years = 1970...2199

  /// How far ahead a date is looked for, in years. 29 February on a certain weekday comes at least once in 40 years.
  package static let horizon = 40
}

// MARK: The next date and time

extension CalendarEvent {
  /// The first matching time that isn't before `start`; nil if there is none within ``horizon`` years. Its cost is bounded
  /// by the months of the horizon.
  package func first(from start: WallTime) -> WallTime? {
    let day = start.dayNumber
    let date = CivilDate(dayNumber: day)
    if dayMask(ofMonth: date.month, of: date.year) >> UInt64(date.day) & 1 == 1,
      let second = firstSecond(from: start.secondOfDay)
    {
      return WallTime(dayNumber: day, secondOfDay: second)
    }
    guard let next = firstDate(after: date), let second = firstSecond(from: 0) else { return nil }
    return WallTime(dayNumber: next.dayNumber, secondOfDay: second)
  }

  /// Whether any date matches, in whatever year the schedule may mean.
  var hasDates: Bool {
    let starts = years ?? [2000]
    return starts.contains { firstDate(after: CivilDate(year: $0 - 1, month: 12, day: 31)) != nil }
  }

  private func firstDate(after date: CivilDate) -> CivilDate? {
    for year in date.year...date.year + Self.horizon {
      if let years, !years.contains(year) { continue }
      let isSameYear = year == date.year
      var month = isSameYear ? date.month : 1
      while let next = months.first(from: month) {
        var mask = dayMask(ofMonth: next, of: year)
        if isSameYear, next == date.month { mask &= ~0 << UInt64(date.day + 1) }
        if mask != 0 { return CivilDate(year: year, month: next, day: mask.trailingZeroBitCount) }
        month = next + 1
      }
    }
    return nil
  }

  /// The days that match, as bits 1 to 31.
  private func dayMask(ofMonth month: Int, of year: Int) -> UInt64 {
    guard months.contains(month), years?.contains(year) != false else { return 0 }
    let length = CivilDate.days(inMonth: month, of: year)
    var mask: UInt64 =
      switch days {
      case .fromStart(let set): set.bits & ((2 << UInt64(length)) - 2)
      case .fromEnd(let set): Self.mirrored(set, length: length)
      }
    if weekdays != Self.everyWeekday, mask != 0 {
      let first = CivilDate.weekday(ofDayNumber: CivilDate(year: year, month: month, day: 1).dayNumber)
      for day in 1...length where !weekdays.contains((first + day - 1) % 7) { mask &= ~(1 << UInt64(day)) }
    }
    return mask
  }

  private static func mirrored(_ set: SmallSet, length: Int) -> UInt64 {
    var mask: UInt64 = 0
    for day in 1...length where set.contains(length + 1 - day) { mask |= 1 << UInt64(day) }
    return mask
  }

  /// The first second of a day, from `second` on, that matches.
  private func firstSecond(from second: Int) -> Int? {
    let (hour, minute) = (second / 3600, second / 60 % 60)
    if hours.contains(hour) {
      if minutes.contains(minute), let found = seconds.first(from: second % 60) {
        return second - second % 60 + found
      }
      if let found = minutes.first(from: minute + 1), let first = seconds.first(from: 0) {
        return hour * 3600 + found * 60 + first
      }
    }
    guard let hour = hours.first(from: hour + 1), let minute = minutes.first(from: 0),
      let second = seconds.first(from: 0)
    else { return nil }
    return hour * 3600 + minute * 60 + second
  }
}
