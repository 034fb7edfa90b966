/// The runs of one calendar event in a time zone, in ascending order.
///
/// The rule for days when the clock changes goes by the event's shape:
/// 1. Times of day: a time that the clock doesn't show runs at the first instant after the gap; one that it shows twice
///    runs the first time only. Both are the first instant at which the clock shows that time or a later one.
/// 2. Intervals: every instant at which the clock shows a matching time. So the repeated hour runs twice, the skipped one
///    isn't made up, and an hourly schedule stays hourly.
/// 3. Runs that fall on one instant are one run.
struct EventRuns {
  private let event: CalendarEvent
  private let zone: ZoneRules

  init(_ event: CalendarEvent, in zone: ZoneRules) {
    self.event = event
    self.zone = zone
  }

  /// The first run after `time`; nil if there is none within the event's horizon.
  func first(after time: UnixTime) -> PlannedRun? {
    switch event.shape {
    case .timesOfDay: firstTimeOfDay(after: time.seconds)
    case .interval: firstOfInterval(after: time.seconds)
    }
  }

  private func firstTimeOfDay(after time: Int) -> PlannedRun? {
    // What the clock has shown already has run.
    guard let wall = event.first(from: WallTime(zone.latestWall(through: time) + 1)) else { return nil }
    let at = zone.firstInstant(showing: wall)
    let span = zone.span(at: at.seconds)
    let change: ClockChange? =
      if at.seconds + span.offset != wall.seconds {
        zone.span(before: span).map {
          .skipped(
            planned: wall, gapStart: WallTime(at.seconds + $0.offset), gapEnd: WallTime(at.seconds + span.offset))
        }
      } else {
        zone.isShownAgain(wall, after: span) ? .repeatedRunsOnce(wall) : nil
      }
    return PlannedRun(at: at, offset: span.offset, clockChange: change)
  }

  private func firstOfInterval(after time: Int) -> PlannedRun? {
    var span = zone.span(at: time + 1)
    var start = time + 1
    let horizon = time + CalendarEvent.horizon * 366 * WallTime.day
    while start <= horizon {
      guard let wall = event.first(from: WallTime(start + span.offset)) else { return nil }
      let at = wall.seconds - span.offset
      if at < span.end { return run(at, wall, span) }
      guard span.end != .max else { return nil }
      // Nothing matches before `wall`, except what the clock shows again right after this span.
      let mayRepeat = span.end <= start + 2 * ZoneRules.largestOffset
      start = mayRepeat ? span.end : max(span.end, wall.seconds - ZoneRules.largestOffset)
      span = zone.span(at: start)
    }
    return nil
  }

  private func run(_ at: Int, _ wall: WallTime, _ span: ZoneRules.Span) -> PlannedRun {
    let isSecond = zone.wasShownBefore(wall, span)
    let change: ClockChange? =
      isSecond || zone.isShownAgain(wall, after: span) ? .repeatedRunsTwice(wall, isSecond: isSecond) : nil
    return PlannedRun(at: UnixTime(at), offset: span.offset, clockChange: change)
  }
}

extension ZoneRules {
  /// Whether the clock shows `wall`, which it shows in `span`, in the next span too.
  fileprivate func isShownAgain(_ wall: WallTime, after span: Span) -> Bool {
    guard span.end <= wall.seconds - span.offset + 2 * Self.largestOffset, let next = self.span(after: span),
      next.offset < span.offset
    else { return false }
    return (next.start..<next.end).contains(wall.seconds - next.offset)
  }

  /// Whether the clock showed `wall`, which it shows in `span`, in the span before too.
  fileprivate func wasShownBefore(_ wall: WallTime, _ span: Span) -> Bool {
    guard span.start > wall.seconds - span.offset - 2 * Self.largestOffset, let before = self.span(before: span),
      before.offset > span.offset
    else { return false }
    return (before.start..<before.end).contains(wall.seconds - before.offset)
  }
}
