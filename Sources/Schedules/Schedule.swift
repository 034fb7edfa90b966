/// When a policy runs, as a person wrote it: a cron line, one of the words such as `daily`, or a calendar event.
///
/// It says nothing of a time zone: the zone is given to ``RunSequence``.
package struct Schedule: Hashable, Sendable {
  /// As it was written.
  package let text: String
  /// A run is due whenever one of these says so. There are two where a cron line restricts both the day of the month and
  /// the day of the week, else one.
  package let events: [CalendarEvent]
  /// The same in one fixed way of writing: equal texts run at equal times. It is a calendar event, or a cron line where a
  /// calendar event can't say it (either of two day fields).
  package let normalized: String

  /// Bytes that a schedule may have; no normal form is longer.
  package static let maximumLength = 2048

  /// The most schedules that one policy may have.
  package static let maximumCount = 64

  /// - Throws: if the text isn't a schedule, or names dates that there aren't.
  package init(_ text: String) throws(ScheduleFault) {
    let whole = try TextPiece(schedule: text)
    let parsed = try ScheduleParser.parse(whole)
    guard parsed.events.contains(where: \.hasDates) else {
      throw parsed.dates.fault("there is no such date: it never runs", kind: .neverFires)
    }
    self.text = text
    events = parsed.events
    normalized = parsed.cron ?? parsed.events[0].text
  }

  /// In English, e.g. `every day at 02:30`.
  package var inWords: String {
    let time = events[0].timeInWords
    let days = events.compactMap(\.daysInWords)
    switch days.count {
    case 0: return time.hasPrefix("every") ? time : "every day \(time)"
    case 1 where events.count == 1: return "\(days[0]) \(time)"
    default:
      let either = events.map { $0.daysInWords ?? "every day" }.joined(separator: ", or ")
      return "\(either) (either is enough), \(time)"
    }
  }
}
