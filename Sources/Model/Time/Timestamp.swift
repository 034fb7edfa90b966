import Foundation
import Schedules

/// Points in time as the API, manifests and reports write them: RFC 3339, UTC, always with milliseconds.
package enum Timestamp {
  /// E.g. `2026-03-01T08:05:09.120Z`. Years outside 0000–9999 are cut to the nearest that can be written.
  package static func text(of date: Date) -> String {
    let milliseconds = Int((date.timeIntervalSince1970 * 1000).rounded().clamped(to: earliest...latest))
    let (day, inDay) = milliseconds.flooredQuotientAndRemainder(dividingBy: 86_400_000)
    let date = CivilDate(dayNumber: day)
    let seconds = inDay / 1000
    return padded(date.year, 4) + "-" + padded(date.month, 2) + "-" + padded(date.day, 2) + "T"
      + padded(seconds / 3600, 2)
      + ":" + padded(seconds / 60 % 60, 2) + ":" + padded(seconds % 60, 2) + "." + padded(inDay % 1000, 3) + "Z"
  }

  /// The time that an RFC 3339 text names, with or without fractions of a second; nil if it isn't one.
  package static func date(of text: String) -> Date? {
    let whole = Date.ISO8601FormatStyle()
    // Foundation takes 30 February for 1 March, and 25 o'clock for 1 o'clock of the next day.
    let fields = text.prefix(19)
    guard let civil = try? Date("\(fields)Z", strategy: whole), Self.text(of: civil).hasPrefix(fields) else {
      return nil
    }
    return (try? Date(text, strategy: whole))
      ?? (try? Date(text, strategy: whole.time(includingFractionalSeconds: true)))
  }

  /// The time that a text of exactly the form of ``text(of:)`` names; nil for every other.
  package static func date(ofExact text: String) -> Date? {
    guard let date = date(of: text).map(rounded), Self.text(of: date) == text else { return nil }
    return date
  }

  /// The nearest millisecond, as the one value that stands for it.
  package static func rounded(_ date: Date) -> Date {
    Date(timeIntervalSince1970: (date.timeIntervalSince1970 * 1000).rounded() / 1000)
  }

  /// 0000-01-01 and the last millisecond of 9999, in milliseconds since 1970.
  private static let earliest = -62_167_219_200_000.0
  private static let latest = 253_402_300_799_999.0

  private static func padded(_ number: Int, _ width: Int) -> String {
    let digits = String(number)
    return String(repeating: "0", count: max(0, width - digits.utf8.count)) + digits
  }
}

extension Int {
  fileprivate func flooredQuotientAndRemainder(dividingBy divisor: Int) -> (quotient: Int, remainder: Int) {
    let (quotient, remainder) = quotientAndRemainder(dividingBy: divisor)
    return remainder < 0 ? (quotient - 1, remainder + divisor) : (quotient, remainder)
  }
}

extension Double {
  fileprivate func clamped(to range: ClosedRange<Double>) -> Double {
    isNaN ? range.lowerBound : Swift.min(Swift.max(self, range.lowerBound), range.upperBound)
  }
}
