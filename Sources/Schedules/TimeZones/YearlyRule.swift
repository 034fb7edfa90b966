/// The footer of a TZif file: an offset, or two that alternate each year, for the time after the table (RFC 8536, section
/// 3.3; POSIX.1, TZ).
struct YearlyRule: Hashable, Sendable {
  struct Change: Hashable, Sendable {
    enum Day: Hashable, Sendable {
      /// `Mm.w.d`: the weekday (0 is Monday here) in that week of the month; week 5 is the last.
      case weekday(Int, week: Int, month: Int)
      /// `Jn`: 1 to 365, 29 February not counted.
      case withoutLeapDay(Int)
      /// `n`: 0 to 365.
      case ofYear(Int)
    }

    var day: Day
    /// Seconds after midnight, by the clock before the change; may lie some days away.
    var time: Int
  }

  struct Summer: Hashable, Sendable {
    var offset: Int
    var start: Change
    var end: Change
  }

  /// Seconds that the clock is ahead of UTC.
  var offset: Int
  var summer: Summer?

  /// The span that holds `time`, which isn't before `last.start`.
  /// - Parameter last: what the table ends with.
  func span(at time: Int, since last: ZoneRules.Span) -> ZoneRules.Span {
    guard let summer else { return ZoneRules.Span(start: last.start, end: .max, offset: last.offset) }
    let day = time.flooredQuotientAndRemainder(dividingBy: WallTime.day).quotient
    let year = CivilDate(dayNumber: day).year
    var span = ZoneRules.Span(start: last.start, end: .max, offset: last.offset)
    for change in Self.changes(around: year, offset, summer) where change.at > last.start {
      if change.at > time {
        span.end = change.at
        break
      }
      (span.start, span.offset) = (change.at, change.offset)
    }
    return span
  }

  /// In ascending order, no two at one instant: where summer time begins as it ends, it goes on.
  private static func changes(
    around year: Int, _ offset: Int, _ summer: Summer
  ) -> [(at: Int, offset: Int)] {
    var changes: [(at: Int, offset: Int)] = []
    for year in year - 1...year + 1 {
      let start = (at: summer.start.wall(in: year) - offset, offset: summer.offset)
      let end = (at: summer.end.wall(in: year) - summer.offset, offset: offset)
      changes += [start, end]
    }
    changes.sort { $0.at < $1.at || ($0.at == $1.at && $0.offset != summer.offset && $1.offset == summer.offset) }
    var distinct: [(at: Int, offset: Int)] = []
    for change in changes {
      if distinct.last?.at == change.at { distinct.removeLast() }
      distinct.append(change)
    }
    return distinct
  }
}

extension YearlyRule.Change {
  /// What the clock shows when it changes, in seconds as ``WallTime`` counts them.
  func wall(in year: Int) -> Int {
    let newYear = CivilDate(year: year, month: 1, day: 1).dayNumber
    let dayNumber =
      switch day {
      case .ofYear(let day): newYear + day
      case .withoutLeapDay(let day): newYear + day - 1 + (day > 59 && CivilDate.isLeap(year) ? 1 : 0)
      case .weekday(let weekday, let week, let month): Self.dayNumber(of: weekday, week, month, year)
      }
    return dayNumber * WallTime.day + time
  }

  private static func dayNumber(of weekday: Int, _ week: Int, _ month: Int, _ year: Int) -> Int {
    let first = CivilDate(year: year, month: month, day: 1).dayNumber
    let day = (weekday - CivilDate.weekday(ofDayNumber: first) + 7) % 7 + (week - 1) * 7
    let isPast = day >= CivilDate.days(inMonth: month, of: year)
    return first + (isPast ? day - 7 : day)
  }
}
