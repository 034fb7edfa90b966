/// When the schedules of a policy are due, merged: runs that fall on one instant are one.
///
/// Endless but for schedules that name years. A run costs at most one search per schedule, and no search looks farther
/// ahead than ``CalendarEvent/horizon`` years.
package struct RunSequence: Sequence, IteratorProtocol {
  private var events: [EventRuns]
  /// The next run of each event.
  private var upcoming: [PlannedRun?]

  /// - Parameter time: all runs are later than it.
  package init(_ schedules: [Schedule], in zone: ZoneRules, after time: UnixTime) {
    events = schedules.flatMap(\.events).map { EventRuns($0, in: zone) }
    upcoming = events.map { $0.first(after: time) }
  }

  package mutating func next() -> PlannedRun? {
    guard let earliest = upcoming.compactMap({ $0 }).min(by: { $0.at < $1.at }) else { return nil }
    var change = earliest.clockChange
    for index in events.indices where upcoming[index]?.at == earliest.at {
      // A run that was moved here says so, even if another is due here anyway.
      if case .skipped? = upcoming[index]?.clockChange { change = upcoming[index]?.clockChange }
      upcoming[index] = events[index].first(after: earliest.at)
    }
    return PlannedRun(at: earliest.at, offset: earliest.offset, clockChange: change)
  }
}
