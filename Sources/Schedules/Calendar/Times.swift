/// An instant: whole seconds since 1970-01-01 00:00 UTC, leap seconds not counted.
package struct UnixTime: Hashable, Comparable, Sendable {
  package var seconds: Int

  package init(_ seconds: Int) { self.seconds = seconds }

  package static func < (one: UnixTime, other: UnixTime) -> Bool { one.seconds < other.seconds }
}

/// What a clock on the wall shows, with its date: seconds since it showed 1970-01-01 00:00, as if it was never changed.
package struct WallTime: Hashable, Comparable, Sendable {
  package var seconds: Int

  package init(_ seconds: Int) { self.seconds = seconds }

  package init(dayNumber: Int, secondOfDay: Int) { seconds = dayNumber * Self.day + secondOfDay }

  static let day = 86_400

  package var dayNumber: Int { seconds.flooredQuotientAndRemainder(dividingBy: Self.day).quotient }
  package var secondOfDay: Int { seconds.flooredQuotientAndRemainder(dividingBy: Self.day).remainder }
  package var date: CivilDate { CivilDate(dayNumber: dayNumber) }

  package static func < (one: WallTime, other: WallTime) -> Bool { one.seconds < other.seconds }

  /// E.g. `2026-03-29`.
  package var dateText: String {
    let date = date
    return "\(date.year.padded(4))-\(date.month.padded(2))-\(date.day.padded(2))"
  }

  /// E.g. `02:30`; with seconds where they aren't 0.
  package var timeText: String {
    let second = secondOfDay
    let text = "\((second / 3600).padded(2)):\((second / 60 % 60).padded(2))"
    return second % 60 == 0 ? text : "\(text):\((second % 60).padded(2))"
  }
}

extension Int {
  func padded(_ width: Int) -> String {
    let digits = String(self)
    return String(repeating: "0", count: Swift.max(0, width - digits.utf8.count)) + digits
  }
}
