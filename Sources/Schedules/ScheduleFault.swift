/// Why a text isn't taken as a schedule.
package struct ScheduleFault: Error, Hashable, Sendable {
  package enum Kind: Hashable, Sendable {
    case grammar
    /// The text is well formed, and no date is like that: 30 February.
    case neverFires
  }

  package var kind: Kind
  package var reason: String
  /// The bytes of the text that are meant; empty at its end if something is missing there.
  package var place: Range<Int>
  /// What stands there.
  package var piece: String
  /// Schedules that together say what was meant, where the grammar has other words for it.
  package var suggestions: [String]
}

extension ScheduleFault: CustomStringConvertible {
  /// One line, without a full stop; characters count from 1.
  package var description: String {
    let start = (piece.isEmpty ? "" : "'\(piece)' ") + "at character \(place.lowerBound + 1): \(reason)"
    guard !suggestions.isEmpty else { return start }
    let list = suggestions.map { "'\($0)'" }.joinedInWords()
    return suggestions.count == 1
      ? "\(start); the calendar event \(list) says the same"
      : "\(start); the calendar events \(list) together say the same"
  }
}

extension [String] {
  /// E.g. `a, b and c`.
  func joinedInWords(_ last: String = "and") -> String {
    count < 2 ? joined() : "\(dropLast().joined(separator: ", ")) \(last) \(self[count - 1])"
  }
}
