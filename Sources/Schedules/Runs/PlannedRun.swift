/// One instant at which a run is due.
package struct PlannedRun: Hashable, Sendable {
  package let at: UnixTime
  /// Seconds that the zone's clock is ahead of UTC then.
  package let offset: Int
  /// What a change of the clock does to this run; nil if none has to do with it.
  package let clockChange: ClockChange?

  package var wallTime: WallTime { WallTime(at.seconds + offset) }

  /// E.g. `2026-03-29T03:00:00+02:00` (RFC 3339, whose offsets have no seconds: they are rounded).
  package var localText: String {
    let second = wallTime.secondOfDay % 60
    let minutes = Int((Double(abs(offset)) / 60).rounded())
    let sign = offset < 0 ? "-" : "+"
    let wall = WallTime(wallTime.seconds - second)
    return
      "\(wall.dateText)T\(wall.timeText):\(second.padded(2))\(sign)\((minutes / 60).padded(2)):\((minutes % 60).padded(2))"
  }
}

/// What a change of the clock does to a run.
package enum ClockChange: Hashable, Sendable {
  /// The clock never shows `planned`: the run is at the first instant after the gap.
  case skipped(planned: WallTime, gapStart: WallTime, gapEnd: WallTime)
  /// The clock shows the run's time twice, and a time of day runs the first time only.
  case repeatedRunsOnce(WallTime)
  /// The clock shows the run's time twice, and an interval goes on in both.
  case repeatedRunsTwice(WallTime, isSecond: Bool)

  /// Why the run isn't at the time that was planned; nil if it is.
  package var shiftedInWords: String? {
    guard case .skipped(let planned, let start, let end) = self else { return nil }
    return
      "the clock doesn't show \(planned.timeText) on \(planned.dateText): it goes from \(start.text(beside: planned)) to "
      + "\(end.text(beside: planned)), and the run is at the first instant after that"
  }

  /// What comes of a time that the clock shows twice; nil if it isn't one.
  package var repeatedInWords: String? {
    switch self {
    case .skipped: nil
    case .repeatedRunsOnce(let wall):
      "the clock shows \(wall.timeText) twice on \(wall.dateText): a time of day runs the first time only"
    case .repeatedRunsTwice(let wall, let isSecond):
      "the clock shows \(wall.timeText) twice on \(wall.dateText): an interval goes on, and this is the "
        + (isSecond ? "second" : "first")
    }
  }
}

extension WallTime {
  /// With its date where that is another one.
  fileprivate func text(beside other: WallTime) -> String {
    dayNumber == other.dayNumber ? timeText : "\(dateText) \(timeText)"
  }
}
