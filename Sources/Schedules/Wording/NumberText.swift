/// Sets of numbers as schedules write them: one way for each set, so that equal schedules become equal texts.
enum NumberText {
  private enum Part {
    case all
    case single(Int)
    case run(Int, Int)
    /// From the first on, to the end of what the field can be.
    case steps(from: Int, by: Int)

    var isInterval: Bool { if case .single = self { false } else { true } }
  }

  /// E.g. `*`, `07,09`, `08..17`, `00/15`.
  /// - Parameter shape: of hours, whose notation says it; nil where the notation doesn't matter.
  static func calendar(_ set: SmallSet, _ range: ClosedRange<Int>, keeping shape: CalendarEvent.Shape? = nil) -> String
  {
    calendar(set.numbers, range, keeping: shape)
  }

  static func calendar(
    _ numbers: [Int], _ range: ClosedRange<Int>, keeping shape: CalendarEvent.Shape? = nil
  ) -> String {
    parts(numbers, range, shape).map { part in
      switch part {
      case .all: "*"
      case .single(let number): number.padded(2)
      case .run(let first, let last): "\(first.padded(2))..\(last.padded(2))"
      case .steps(let first, let step): "\(first.padded(2))/\(step)"
      }
    }.joined(separator: ",")
  }

  /// E.g. `~` days, which know no open end.
  static func fromEnd(_ set: SmallSet) -> String {
    runs(set.numbers, ofAtLeast: 2).map { part in
      switch part {
      case .run(let first, let last): "\(first.padded(2))..\(last.padded(2))"
      case .single(let number): number.padded(2)
      case .all, .steps: ""
      }
    }.joined(separator: ",")
  }

  /// E.g. `*`, `7,9`, `8-17`, `*/15`, `5-59/15`.
  static func cron(_ set: SmallSet, _ range: ClosedRange<Int>, keeping shape: CalendarEvent.Shape? = nil) -> String {
    cron(parts(set.numbers, range, shape), range, star: "*")
  }

  /// The same without a `*`, which would restrict nothing.
  static func cronRestricted(_ set: SmallSet, _ range: ClosedRange<Int>) -> String {
    cron(parts(set.numbers, range, nil), range, star: "\(range.lowerBound)-\(range.upperBound)")
  }

  private static func cron(_ parts: [Part], _ range: ClosedRange<Int>, star: String) -> String {
    parts.map { part in
      switch part {
      case .all: star
      case .single(let number): "\(number)"
      case .run(let first, let last): "\(first)-\(last)"
      case .steps(range.lowerBound, let step): "\(star)/\(step)"
      case .steps(let first, let step): "\(first)-\(range.upperBound)/\(step)"
      }
    }.joined(separator: ",")
  }

  private static func parts(
    _ numbers: [Int], _ range: ClosedRange<Int>, _ shape: CalendarEvent.Shape?
  ) -> [Part] {
    if shape == .timesOfDay { return numbers.map(Part.single) }
    if numbers.count == range.count { return [.all] }
    if let step = progression(numbers, range), numbers.count >= (shape == .interval ? 2 : 3) {
      return [.steps(from: numbers[0], by: step)]
    }
    var parts = runs(numbers, ofAtLeast: shape == .interval ? 2 : 3)
    // What makes hours an interval must stay visible.
    if shape == .interval, !parts.contains(where: \.isInterval) { parts[0] = .run(numbers[0], numbers[0]) }
    return parts
  }

  /// The step, if the numbers are as far apart as each other and go on to the end of the range.
  static func progression(_ numbers: [Int], _ range: ClosedRange<Int>) -> Int? {
    guard numbers.count > 1 else { return nil }
    let step = numbers[1] - numbers[0]
    guard step > 1, numbers[numbers.count - 1] + step > range.upperBound,
      zip(numbers, numbers.dropFirst()).allSatisfy({ $1 - $0 == step })
    else { return nil }
    return step
  }

  private static func runs(_ numbers: [Int], ofAtLeast least: Int) -> [Part] {
    consecutive(numbers).flatMap { run in
      run.count >= least ? [Part.run(run.lowerBound, run.upperBound)] : run.map(Part.single)
    }
  }

  /// The ranges without gaps that the numbers make.
  static func consecutive(_ numbers: [Int]) -> [ClosedRange<Int>] {
    var ranges: [ClosedRange<Int>] = []
    for number in numbers {
      if let last = ranges.last, last.upperBound + 1 == number {
        ranges[ranges.count - 1] = last.lowerBound...number
      } else {
        ranges.append(number...number)
      }
    }
    return ranges
  }
}
