/// Weekdays and months, as schedules and sentences name them.
enum Names {
  struct Name: Sendable {
    let full: String
    /// Its first three letters in lower case.
    var short: String { full.prefix(3).lowercased() }
  }

  /// Monday first.
  static let weekdays = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"].map(Name.init)
  static let months = [
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
  ].map(Name.init)

  /// E.g. `21st`.
  static func ordinal(_ number: Int) -> String {
    switch (number % 10, number % 100) {
    case (_, 11...13): "\(number)th"
    case (1, _): "\(number)st"
    case (2, _): "\(number)nd"
    case (3, _): "\(number)rd"
    default: "\(number)th"
    }
  }
}
