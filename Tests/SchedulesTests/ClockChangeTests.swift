import Foundation
import Testing

@testable import Schedules

/// The rule for days when the clock changes, against an oracle on Python's zoneinfo, and by examples that a person can
/// check.
struct ClockChangeTests {
  private struct Change: Decodable {
    let zone: String
    let start: Int
    let end: Int
    let runs: [String: [Run]]

    struct Run: Decodable, Hashable {
      let at: Int
      let mark: String

      init(at: Int, mark: String) { (self.at, self.mark) = (at, mark) }

      init(from decoder: any Decoder) throws {
        var items = try decoder.unkeyedContainer()
        self.init(at: try items.decode(Int.self), mark: try items.decode(String.self))
      }
    }
  }

  /// Every change of the years 2000 to 2040 in six zones: by an hour, by half an hour, at midnight, twice around Ramadan,
  /// by a whole day; from the table of the zone's file, and from its rule for later years.
  @Test func everyChangeOfTheClockIsAsTheOracleSaysIt() throws {
    let script = URL(fileURLWithPath: #filePath).deletingLastPathComponent().appending(path: "clock_changes.py")
    let lines = try Program.run("/usr/bin/python3", [script.path]).split(separator: "\n")
    let changes = try lines.map { try JSONDecoder().decode(Change.self, from: Data($0.utf8)) }
    #expect(Set(changes.map(\.zone)).count == 6 && changes.count > 300, "\(changes.count)")
    for change in changes {
      let zone = try ZoneFolder.ofHost.rules(named: change.zone)
      for (text, expected) in change.runs {
        let found = RunSequence([try Schedule(text)], in: zone, after: UnixTime(change.start - 1))
          .prefix { $0.at.seconds < change.end }.map { Change.Run(at: $0.at.seconds, mark: mark($0.clockChange)) }
        #expect(found == expected, "\(text) in \(change.zone) from \(UnixTime(change.start).text) UTC")
      }
    }
  }

  private func mark(_ change: ClockChange?) -> String {
    switch change {
    case nil: ""
    case .skipped: "skipped"
    case .repeatedRunsOnce, .repeatedRunsTwice: "repeated"
    }
  }

  @Test(arguments: [
    ("Europe/Berlin", "02:30", "2026-03-28T12:00:00Z", ["2026-03-29 01:00", "2026-03-30 00:30"]),
    ("Europe/Berlin", "02:30", "2026-10-24T12:00:00Z", ["2026-10-25 00:30", "2026-10-26 01:30"]),
    ("Europe/Berlin", "hourly", "2026-10-24T23:30:00Z", ["2026-10-25 00:00", "2026-10-25 01:00", "2026-10-25 02:00"]),
    ("America/New_York", "01:30", "2026-11-01T04:00:00Z", ["2026-11-01 05:30", "2026-11-02 06:30"]),
    ("America/Sao_Paulo", "daily", "2018-11-03T22:00:00Z", ["2018-11-04 03:00", "2018-11-05 02:00"]),
    ("Africa/Casablanca", "daily", "2026-02-14T22:00:00Z", ["2026-02-14 23:00", "2026-02-16 00:00"]),
    ("Australia/Lord_Howe", "hourly", "2026-10-03T14:00:00Z", ["2026-10-03 14:30", "2026-10-03 16:00"]),
    ("Australia/Lord_Howe", "02:30", "2026-10-03T12:00:00Z", ["2026-10-03 15:30", "2026-10-04 15:30"]),
    ("Pacific/Apia", "02:30", "2011-12-29T08:00:00Z", ["2011-12-29 12:30", "2011-12-30 10:00", "2011-12-30 12:30"]),
    ("Pacific/Apia", "*-12-30 12:00", "2011-12-01T00:00:00Z", ["2011-12-30 10:00", "2012-12-29 22:00"]),
  ])
  func theReferencesExamples(_ zone: String, _ text: String, _ start: String, _ expected: [String]) throws {
    #expect(try runs(text, zone: zone, after: start, count: expected.count) == expected)
  }

  /// While an hour is repeated, what ran in its first copy isn't due again, wherever the search begins.
  @Test func aSearchFromWithinARepeatedHourKnowsWhatRan() throws {
    let zone = try ZoneFolder.ofHost.rules(named: "Europe/Berlin")
    for minute in stride(from: 0, to: 60, by: 7) {
      let start = try UnixTime("2026-10-25T01:\(minute.padded(2)):00Z")
      var daily = RunSequence([try Schedule("2:59")], in: zone, after: start)
      #expect(daily.next()?.at.text == "2026-10-26 01:59")
      var hourly = RunSequence([try Schedule("*:59")], in: zone, after: start)
      #expect(hourly.next()?.at.text == "2026-10-25 01:59")
    }
  }

  @Test func aRunSaysWhyItIsWhereItIs() throws {
    let zone = try ZoneFolder.ofHost.rules(named: "Europe/Berlin")
    func first(_ text: String, _ start: String) throws -> PlannedRun {
      let runs = RunSequence([try Schedule(text)], in: zone, after: try UnixTime(start))
      return try #require(runs.first { _ in true })
    }
    let skipped = try first("02:30", "2026-03-28T12:00:00Z")
    #expect(skipped.localText == "2026-03-29T03:00:00+02:00")
    #expect(
      skipped.clockChange?.shiftedInWords
        == "the clock doesn't show 02:30 on 2026-03-29: it goes from 02:00 to 03:00, and the run is at the first instant "
        + "after that")
    #expect(skipped.clockChange?.repeatedInWords == nil)
    let once = try first("02:30", "2026-10-24T12:00:00Z")
    #expect(once.localText == "2026-10-25T02:30:00+02:00" && once.clockChange?.shiftedInWords == nil)
    #expect(
      once.clockChange?.repeatedInWords
        == "the clock shows 02:30 twice on 2026-10-25: a time of day runs the first time only")
    let second = try first("*:30", "2026-10-25T01:00:00Z")
    #expect(second.localText == "2026-10-25T02:30:00+01:00")
    #expect(second.clockChange?.repeatedInWords?.hasSuffix("an interval goes on, and this is the second") == true)
    #expect(try first("02:30", "2026-05-01T00:00:00Z").clockChange == nil)
    let apia = try ZoneFolder.ofHost.rules(named: "Pacific/Apia")
    var runs = RunSequence([try Schedule("*-12-30 2:30")], in: apia, after: try UnixTime("2011-12-01T00:00:00Z"))
    #expect(
      runs.next()?.clockChange?.shiftedInWords?.contains("it goes from 00:00 to 2011-12-31 00:00") == true)
  }

  @Test func schedulesAreMergedAndAMovedRunIsTold() throws {
    #expect(
      try runs("02:30", "hourly", "3:00", zone: "Europe/Berlin", after: "2026-03-29T00:30:00Z", count: 3) == [
        "2026-03-29 01:00", "2026-03-29 02:00", "2026-03-29 03:00",
      ])
    let zone = try ZoneFolder.ofHost.rules(named: "Europe/Berlin")
    var merged = RunSequence(
      [try Schedule("3:00"), try Schedule("hourly"), try Schedule("02:30")], in: zone,
      after: try UnixTime("2026-03-29T00:30:00Z"))
    #expect(merged.next()?.clockChange?.shiftedInWords?.contains("02:30") == true)
  }
}
