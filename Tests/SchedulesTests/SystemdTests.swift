import BlockTesting
import Foundation
import Testing

@testable import Schedules

/// Random calendar events, judged by `systemd-analyze calendar`: in UTC, and in a zone on days without a clock change
/// (on others systemd itself leaves runs out).
struct SystemdTests {
  private static let seed: UInt64 = 2026
  private static let runsEach = 8

  @Test func inUTCRunsAreThoseOfSystemd() throws {
    var random = SeededRandom(seed: Self.seed)
    try compare(
      (0..<TestEffort.rounds(600)).map { _ in CalendarText.random(&random) }, zone: "UTC", until: .max, "\(random)")
  }

  @Test func onDaysWithoutAClockChangeRunsAreThoseOfSystemd() throws {
    var random = SeededRandom(seed: Self.seed + 1)
    let change = try UnixTime("2026-10-24T00:00:00Z").seconds
    try compare(
      (0..<TestEffort.rounds(300)).map { _ in CalendarText.random(&random, dense: true) }, zone: "Europe/Berlin",
      until: change, "\(random)")
  }

  /// The text and its normal form, both read by systemd, against our runs; and what we refuse never runs there.
  private func compare(_ texts: [String], zone name: String, until end: Int, _ seed: String) throws {
    let zone = try ZoneFolder.ofHost.rules(named: name)
    let start = try UnixTime("2026-04-01T00:00:00Z")
    var events: [(text: String, runs: [String], normalized: String)] = []
    var never: [String] = []
    for text in texts {
      do {
        let schedule = try Schedule(text)
        let found = RunSequence([schedule], in: zone, after: start).prefix(Self.runsEach)
          .filter { $0.at.seconds < end }.map(\.at.text)
        events.append((text, found, schedule.normalized))
        #expect(try Schedule(schedule.normalized).normalized == schedule.normalized, "\(text) \(seed)")
      } catch {
        #expect(error.kind == .neverFires, "\(text): \(error) \(seed)")
        never.append(text)
      }
    }
    #expect(events.count > texts.count / 2)
    let asWritten = try Self.ask(events.map(\.text), zone: name)
    let asNormalized = try Self.ask(events.map(\.normalized), zone: name)
    for (index, event) in events.enumerated() {
      guard let written = asWritten[index] else { continue }
      let expected = try written.map { try UnixTime($0.replacing(" ", with: "T") + "Z") }.filter { $0.seconds < end }
      #expect(event.runs == expected.map(\.text), "\(event.text) \(seed)")
      if let normalized = asNormalized[index] {
        #expect(normalized == written, "\(event.text) as \(event.normalized) \(seed)")
      }
    }
    for (index, runs) in try Self.ask(never, zone: name).enumerated() {
      #expect(runs?.isEmpty != false, "\(never[index]) \(seed)")
    }
  }

  /// The runs of each, in UTC, as `2026-04-01 02:30:00`; nil where systemd gives up: on lists of days from the month's
  /// end, and on some searches that cross a clock change.
  private static func ask(_ texts: [String], zone: String) throws -> [[String]?] {
    var refused: Set<String> = []
    func blocks() throws -> [[String]] {
      let asked = texts.filter { !refused.contains($0) }.map { "\($0) \(zone)" }
      guard !asked.isEmpty else { return [] }
      let output = try Program.run(
        "/usr/bin/systemd-analyze",
        ["calendar", "--iterations=\(runsEach)", "--base-time=2026-04-01 00:00:00 UTC"] + asked,
        environment: ["TZ": "UTC"], mayFail: true)
      let failed = output.split(separator: "\n").filter { $0.hasPrefix("Failed to ") && $0.contains(" \(zone)'") }
      if !failed.isEmpty {
        refused.formUnion(failed.map { String($0.split(separator: "'")[1].dropLast(zone.utf8.count + 1)) })
        return try blocks()
      }
      return output.components(separatedBy: "Normalized form:").dropFirst().map(runs)
    }
    var answers = try blocks()[...]
    #expect(refused.count < max(2, texts.count / 10), "\(refused)")
    #expect(answers.count == texts.count { !refused.contains($0) })
    return texts.map { refused.contains($0) ? nil : answers.popFirst() }
  }

  /// Times are shown in the zone of the reader.
  private static func runs(in block: String) -> [String] {
    block.split(separator: "\n").compactMap { line in
      guard line.contains("Next elapse:") || line.contains("Iter"), line.hasSuffix(" UTC") else { return nil }
      return line.split(separator: " ").suffix(3).prefix(2).joined(separator: " ")
    }
  }
}

/// Texts of calendar events such as a person, or nobody, would write; all in the grammar that systemd shares.
enum CalendarText {
  static func random(_ random: inout SeededRandom, dense: Bool = false) -> String {
    let days = ["mon", "Tuesday", "WED", "thu", "fri", "Saturday", "sun"]
    var parts: [String] = []
    if random.oneIn(3) {
      let first = random.below(6)
      parts.append(
        random.oneIn(2)
          ? "\(days[first])..\(days[first + 1 + random.below(6 - first)])" : "\(days[first]),\(days[random.below(7)])")
    }
    if random.oneIn(2), !dense || random.oneIn(3) { parts.append(date(&random)) }
    if parts.isEmpty || !random.oneIn(4) {
      var time = "\(list(0...23, &random)):\(list(0...59, &random))"
      if random.oneIn(5) { time += ":\(list(0...59, &random))" }
      parts.append(time)
    }
    return parts.joined(separator: " ")
  }

  private static func date(_ random: inout SeededRandom) -> String {
    let year = random.oneIn(6) ? "\(list(2026...2060, &random, mayBeAll: false))-" : random.oneIn(2) ? "*-" : ""
    let month = list(1...12, &random)
    guard random.oneIn(4) else { return "\(year)\(month)-\(list(1...31, &random))" }
    // systemd takes days from the end up to the 28th, and no list of them.
    let first = 1 + random.below(24)
    let day =
      switch random.below(3) {
      case 0: "\(first)"
      case 1: "\(first)..\(first + random.below(4))"
      case 2 where first > 1: "\(first)/\(1 + random.below(first - 1))"
      default: "\(first)"
      }
    return "\(year)\(month)~\(day)"
  }

  private static func list(_ range: ClosedRange<Int>, _ random: inout SeededRandom, mayBeAll: Bool = true) -> String {
    if mayBeAll, random.oneIn(4) { return "*" }
    return (0...random.below(3)).map { _ in item(range, &random) }.joined(separator: ",")
  }

  private static func item(_ range: ClosedRange<Int>, _ random: inout SeededRandom) -> String {
    let first = range.lowerBound + random.below(range.count)
    let last = first + random.below(range.upperBound - first + 1)
    // systemd takes a step past the end for a fault.
    let step = 1 + random.below(max(1, range.upperBound - first))
    return switch random.below(6) {
    case 0 where last > first: "\(first)..\(last)"
    case 1 where last > first: "\(first)..\(last)/\(step)"
    case 2 where last > first: "\(first)/\(step)"
    default: "\(first)"
    }
  }
}
