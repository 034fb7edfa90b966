/// What the clocks of a time zone show at every instant: offsets from UTC, and when they change.
package struct ZoneRules: Hashable, Sendable {
  /// As tz names it, e.g. `Europe/Berlin`.
  package let name: String
  /// When the offset changes, in ascending order; ``offsets`` has what holds from then on.
  let transitions: [Int]
  let offsets: [Int]
  /// Before the first transition.
  let firstOffset: Int
  /// After the last transition; nil if the last offset stays.
  let rule: YearlyRule?

  init(name: String, transitions: [Int], offsets: [Int], firstOffset: Int, rule: YearlyRule?) {
    self.name = name
    self.transitions = transitions
    self.offsets = offsets
    self.firstOffset = firstOffset
    self.rule = rule
  }

  /// Needs no file.
  package static let utc = ZoneRules(name: "UTC", transitions: [], offsets: [], firstOffset: 0, rule: nil)

  /// A time between two changes of the clock.
  struct Span: Hashable, Sendable {
    /// The first second, `Int.min` if nothing is known before; and the second after the last, `Int.max` likewise.
    var start: Int
    var end: Int
    /// Seconds that the wall clock is ahead of UTC.
    var offset: Int
  }

  /// No zone is farther from UTC than this, in seconds (RFC 8536, section 3.2). So what a clock shows twice it shows
  /// within twice this time.
  static let largestOffset = 26 * 3600

  func span(at time: Int) -> Span {
    let index = countOfTransitions(through: time)
    let start = index == 0 ? Int.min : transitions[index - 1]
    let offset = index == 0 ? firstOffset : offsets[index - 1]
    guard index == transitions.count else { return Span(start: start, end: transitions[index], offset: offset) }
    return rule?.span(at: time, since: Span(start: start, end: .max, offset: offset))
      ?? Span(start: start, end: .max, offset: offset)
  }

  func span(after span: Span) -> Span? { span.end == .max ? nil : self.span(at: span.end) }
  func span(before span: Span) -> Span? { span.start == .min ? nil : self.span(at: span.start - 1) }

  private func countOfTransitions(through time: Int) -> Int {
    var (low, high) = (0, transitions.count)
    while low < high {
      let middle = (low + high) / 2
      if transitions[middle] <= time { low = middle + 1 } else { high = middle }
    }
    return low
  }

  // MARK: Instants and wall clocks

  /// Seconds that the wall clock is ahead of UTC.
  package func offset(at time: UnixTime) -> Int { span(at: time.seconds).offset }

  package func wallTime(at time: UnixTime) -> WallTime { WallTime(time.seconds + offset(at: time)) }

  /// The first instant at which the wall clock shows `wall`, or something later if it never shows that.
  package func firstInstant(showing wall: WallTime) -> UnixTime {
    var span = span(at: wall.seconds - Self.largestOffset)
    while span.end != .max, span.end + span.offset <= wall.seconds { span = self.span(at: span.end) }
    return UnixTime(max(span.start, wall.seconds - span.offset))
  }

  /// The latest that the wall clock has shown up to `time`: more than it shows, while it shows something again.
  func latestWall(through time: Int) -> Int {
    var span = span(at: time)
    var latest = time + span.offset
    while span.start > time - 2 * Self.largestOffset, let before = self.span(before: span) {
      latest = max(latest, span.start - 1 + before.offset)
      span = before
    }
    return latest
  }
}
