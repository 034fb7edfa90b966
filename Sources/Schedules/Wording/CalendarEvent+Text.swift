extension CalendarEvent {
  /// The event in its normal form, which this room and systemd read alike: e.g. `mon..fri 02:30`, `*:00/15`,
  /// `sat *-*-15..21 04:00`.
  package var text: String {
    let parts = [weekdays == Self.everyWeekday ? nil : weekdaysText, hasEveryDate ? nil : datesText, timesText]
    return parts.compactMap { $0 }.joined(separator: " ")
  }

  var hasEveryDate: Bool {
    years == nil && months == Self.everyMonth && days == .fromStart(Self.everyDay)
  }

  private var weekdaysText: String {
    NumberText.consecutive(weekdays.numbers).flatMap { run in
      run.count > 2
        ? ["\(Names.weekdays[run.lowerBound].short)..\(Names.weekdays[run.upperBound].short)"]
        : run.map { Names.weekdays[$0].short }
    }.joined(separator: ",")
  }

  private var datesText: String {
    let year = years.map { NumberText.calendar($0, Self.years) } ?? "*"
    let month = NumberText.calendar(months, 1...12)
    switch days {
    case .fromStart(let set): return "\(year)-\(month)-\(NumberText.calendar(set, 1...31))"
    case .fromEnd(let set): return "\(year)-\(month)~\(NumberText.fromEnd(set))"
    }
  }

  private var timesText: String {
    let time =
      NumberText.calendar(hours, 0...23, keeping: shape) + ":" + NumberText.calendar(minutes, 0...59)
    return seconds == SmallSet([0]) ? time : time + ":" + NumberText.calendar(seconds, 0...59)
  }
}
