import BlockTesting
import Testing

@testable import Schedules

/// What isn't taken, with the reason and the place in the text.
struct RefusalTests {
  private static func fault(_ text: String) -> ScheduleFault? {
    do {
      _ = try Schedule(text)
      return nil
    } catch {
      return error
    }
  }

  @Test(arguments: [
    ("", "at character 1: the schedule is empty"),
    ("   ", "at character 4: the schedule is empty"),
    ("tägl", "'byte 0xc3' at character 2: only printable ASCII characters can stand in a schedule"),
    ("0 25 * * *", "'25' at character 3: an hour is from 0 to 23"),
    ("60 * * * *", "'60' at character 1: a minute is from 0 to 59"),
    ("0 0 0 * *", "'0' at character 5: a day of the month is from 1 to 31"),
    ("0 0 * 13 *", "'13' at character 7: a month is from 1 to 12"),
    ("0 0 * * 8", "'8' at character 9: a day of the week is from 0 to 7"),
    ("0 0 * * mon-", "'mon-' at character 9: a day of the week is missing"),
    ("0 0 * foo *", "'foo' at character 7: this isn't a month"),
    ("0 5-1 * * *", "'5-1' at character 3: the range is reversed: write it as a list, or as two ranges"),
    ("0 0 * * sat-mon", "'sat-mon' at character 9: the range is reversed: write it as a list, or as two ranges"),
    ("*/0 * * * *", "'0' at character 3: a step is at least 1"),
    ("*/99 * * * *", "'99' at character 3: the step is larger than a minute can be: the last is 59"),
    ("5/15 * * * *", "'5' at character 1: a step needs * or a range in front of it, as 5-59"),
    ("*/x * * * *", "'x' at character 3: a step is a number"),
    ("1,,2 * * * *", "at character 3: a minute is missing"),
    (
      "0 0 * * * *",
      "'*' at character 11: cron has five fields here, without seconds; a calendar event can have seconds, "
        + "as *:*:0/10"
    ),
    ("@reboot", "'@reboot' at character 1: the words with @ are @hourly, @daily, @weekly, @monthly and @yearly"),
    ("@daily 5", "'5' at character 8: nothing can follow '@daily'"),
    ("fri..mon 2:00", "'fri..mon' at character 1: the range is reversed: write it as a list, or as two ranges"),
    ("mon-fri 2:00", "'mon-fri' at character 1: a range of weekdays is written mon..fri"),
    ("mon/2", "'mon/2' at character 1: weekdays have no steps"),
    ("mon,3 2:00", "'3' at character 5: this isn't a day of the week"),
    ("montag", "'montag' at character 1: this isn't a day of the week"),
    (
      "nightly",
      "'nightly' at character 1: this is no weekday, and none of minutely, hourly, daily, weekly, monthly, "
        + "quarterly, semiannually, yearly"
    ),
    ("24:00", "'24' at character 1: an hour is from 0 to 23"),
    ("2:60", "'60' at character 3: a minute is from 0 to 59"),
    ("2:", "at character 3: a minute is missing"),
    (":30", "at character 1: an hour is missing"),
    ("2:30:00:00", "'2:30:00:00' at character 1: a time is hour:minute[:second]"),
    ("12..8:00", "'12..8' at character 1: the range is reversed: write it as a list, or as two ranges"),
    ("0/0:00", "'0' at character 3: a step is at least 1"),
    (
      "2:30 Europe/Berlin",
      "'Europe/Berlin' at character 6: weekdays come first, and a time zone isn't part of a "
        + "schedule: it has a field of its own"
    ),
    ("2:30 mon 2026-01-01", "'mon' at character 6: weekdays come first, then the date, then the time"),
    (
      "17",
      "'17' at character 1: this is none of [weekdays] [[year-]month-day] [hour:minute[:second]], nor one of cron's "
        + "five fields"
    ),
    ("1969-01-01", "'1969' at character 1: a year is from 1970 to 2199"),
    ("2026-01", "'2026-01' at character 1: a date is [year-]month-day"),
    ("1-2-3-4", "'1-2-3-4' at character 1: a date is [year-]month-day; a range is written 1..7"),
    ("*-13-01", "'13' at character 3: a month is from 1 to 12"),
    ("*-*-1..", "'1..' at character 5: a day of the month is missing"),
    ("*-*-", "at character 5: a day of the month is missing"),
    ("*-*~*", "'*' at character 5: days from the end of the month are numbers"),
    ("99999:00", "'99999' at character 1: this isn't an hour"),
  ])
  func aFaultSaysWhatAndWhere(_ text: String, _ description: String) {
    #expect(Self.fault(text)?.description == description)
    #expect(Self.fault(text)?.kind == .grammar)
  }

  @Test(arguments: [
    ("*-2-30", "*-2-30", 0), ("0 0 30 2 *", "30 2 *", 4), ("0 0 31 4,6,9,11 *", "31 4,6,9,11 *", 4),
    ("mon 2027-2-29 2:00", "mon 2027-2-29", 0), ("tue 2026-01-01", "tue 2026-01-01", 0), ("*-2~30", "*-2~30", 0),
  ])
  func whatNeverRunsIsRefused(_ text: String, _ piece: String, _ start: Int) throws {
    let fault = try #require(Self.fault(text))
    #expect(fault.kind == .neverFires)
    #expect(fault.piece == piece && fault.place == start..<start + piece.utf8.count)
    #expect(fault.description.hasSuffix("there is no such date: it never runs"))
  }

  @Test func aTextHasABound() {
    #expect(
      Self.fault(String(repeating: "1,", count: 1100) + "1 * * * *")?.reason == "a schedule has at most 2048 bytes")
  }

  /// What other crons have is refused with the calendar events that say the same.
  @Test(arguments: [
    ("0 4 * * 6#3", ["sat *-*-15..21 04:00"]), ("0 4 * * sun#1", ["sun *-*-01..07 04:00"]),
    ("0 4 * * 0#5", ["sun *-*-29..31 04:00"]), ("0 4 * 1-6 5L", ["fri *-01..06~01..07 04:00"]),
    ("0 4 L * *", ["*-*~01 04:00"]), ("0 4 L-2 * ?", ["*-*~03 04:00"]),
    ("0 4 ? * 1-5", ["mon..fri 04:00"]), ("0 4 1 * ?", ["*-*-01 04:00"]), ("0 4 ? * ?", ["04:00"]),
    ("0 4 LW * *", ["mon..fri *-*~01 04:00", "fri *-*~02,03 04:00"]),
    ("0 4 1W * *", ["mon..fri *-*-01 04:00", "mon *-*-02,03 04:00"]),
    (
      "*/15 8-17 15W * ?",
      [
        "mon..fri *-*-15 08..17:00/15", "fri *-*-14 08..17:00/15", "mon *-*-16 08..17:00/15",
      ]
    ),
    ("0 4 30W * *", []), ("0 4 L,15 * *", []), ("0 4 L * 1", []), ("0 4 * * 6#9", []), ("0 ? * * *", []),
  ])
  func extensionsOfCronAreRefusedWithWhatSaysTheSame(_ text: String, _ suggestions: [String]) throws {
    let fault = try #require(Self.fault(text))
    #expect(fault.reason == "L, W, # and ? aren't cron's everywhere, and aren't taken")
    // LW's two days from the end are printed as a range.
    #expect(fault.suggestions == suggestions.map { $0.replacing("~02,03", with: "~02..03") })
    for suggestion in fault.suggestions { #expect(throws: Never.self) { try Schedule(suggestion) } }
  }

  /// The suggested events do what the extensions mean, judged day by day over some years.
  @Test func theSuggestionsMeanTheSame() throws {
    let years = CivilDate(year: 2025, month: 1, day: 1).dayNumber..<CivilDate(year: 2033, month: 1, day: 1).dayNumber
    func days(_ text: String) throws -> [Int] {
      let schedules = try #require(Self.fault(text)).suggestions.map { try! Schedule($0) }
      return RunSequence(schedules, in: .utc, after: UnixTime(years.lowerBound * 86400 - 1))
        .prefix { $0.at.seconds < years.upperBound * 86400 }.map { $0.at.seconds / 86400 }
    }
    func expected(_ matches: (CivilDate, _ weekday: Int, _ length: Int) -> Bool) -> [Int] {
      years.filter {
        let date = CivilDate(dayNumber: $0)
        return matches(date, ($0 + 3) % 7, CivilDate.days(inMonth: date.month, of: date.year))
      }
    }
    /// The weekday nearest to a day of the month, within that month.
    func nearest(_ day: Int, _ first: Int, _ length: Int) -> Int {
      switch (first + day - 1) % 7 {
      case 5: day > 1 ? day - 1 : day + 2
      case 6: day < length ? day + 1 : day - 2
      default: day
      }
    }
    #expect(try days("0 0 * * 6#3") == expected { date, weekday, _ in weekday == 5 && (date.day - 1) / 7 == 2 })
    #expect(try days("0 0 * * 5L") == expected { date, weekday, length in weekday == 4 && date.day + 7 > length })
    for day in [1, 2, 15, 27] {
      #expect(
        try days("0 0 \(day)W * *")
          == expected { date, weekday, length in
            date.day == nearest(day, ((weekday - date.day + 1) % 7 + 7) % 7, length)
          })
    }
    #expect(
      try days("0 0 LW * *")
        == expected { date, weekday, length in
          date.day == nearest(length, ((weekday - date.day + 1) % 7 + 7) % 7, length)
        })
  }
}

/// Texts that nobody meant: the parser takes or refuses them, and never traps; what it takes reads back as itself.
struct ScheduleFuzzTests {
  @Test func noTextIsATrap() {
    var random = SeededRandom(seed: 12)
    let seeds = [
      "*/15 8-17 1,15 jan-jun mon-fri", "mon..fri 2026..2028/2-*-1..7 08..17/3:0/15:30", "sat *-*~1..7/2 04:00",
      "@weekly",
      "0 4 L-3,15W * 6#3", "quarterly", "*-*~31/1 *:*",
    ].map { Array($0.utf8) }
    let alphabet = Array("0123456789 *,-./:~#?@LWmonfridaily\t\u{e4}\0".utf8)
    for _ in 0..<TestEffort.rounds(40_000) {
      var bytes = seeds[random.below(seeds.count)]
      for _ in 0...random.below(6) {
        let index = random.below(bytes.count + 1)
        switch random.below(4) {
        case 0 where index < bytes.count: bytes.remove(at: index)
        case 1 where index < bytes.count: bytes[index] = alphabet[random.below(alphabet.count)]
        case 2: bytes.insert(contentsOf: bytes[..<min(index, 12)], at: index)
        default: bytes.insert(alphabet[random.below(alphabet.count)], at: index)
        }
      }
      let text = String(decoding: bytes, as: UTF8.self)
      do {
        let schedule = try Schedule(text)
        let again = try? Schedule(schedule.normalized)
        #expect(again?.events == schedule.events && again?.normalized == schedule.normalized, "'\(text)' \(random)")
        #expect(!schedule.inWords.isEmpty)
        var runs = RunSequence([schedule], in: .utc, after: UnixTime(1_767_225_600))
        if let first = runs.next(), let second = runs.next() { #expect(first.at < second.at, "'\(text)' \(random)") }
      } catch {
        #expect(error.place.upperBound <= text.utf8.count && !error.description.isEmpty, "'\(text)' \(random)")
      }
    }
  }
}
