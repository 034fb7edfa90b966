import Testing

@testable import Schedules

/// What texts mean: their normal form, their words and their first runs.
struct ScheduleTests {
  @Test(arguments: [
    ("daily", "00:00", "every day at 00:00"),
    ("hourly", "*:00", "every hour"),
    ("minutely", "*:*", "every minute"),
    ("weekly", "mon 00:00", "on Mondays at 00:00"),
    ("monthly", "*-*-01 00:00", "on the 1st of every month at 00:00"),
    ("quarterly", "*-01/3-01 00:00", "on the 1st of January, April, July and October at 00:00"),
    ("semiannually", "*-01,07-01 00:00", "on the 1st of January and July at 00:00"),
    ("Yearly", "*-01-01 00:00", "on the 1st of January at 00:00"),
    ("mon..fri 02:30", "mon..fri 02:30", "Monday to Friday at 02:30"),
    ("  Mon,wednesday   2:5  ", "mon,wed 02:05", "on Mondays and Wednesdays at 02:05"),
    ("*:0/15", "*:00/15", "every 15 minutes"),
    ("*:*/15", "*:00/15", "every 15 minutes"),
    ("*:7/15", "*:07/15", "every hour at minutes 7, 22, 37 and 52"),
    ("sat *-*-15..21 04:00", "sat *-*-15..21 04:00", "on Saturdays among the 15th to 21st of every month at 04:00"),
    ("8..17:0/15", "08..17:00/15", "every 15 minutes in the hours 8 to 17"),
    ("mon..fri 8..17:30", "mon..fri 08..17:30", "Monday to Friday every hour at minute 30 in the hours 8 to 17"),
    ("0/2:00", "00/2:00", "every 2 hours"),
    ("*/2:05", "00/2:05", "every 2 hours at minute 5"),
    ("1,13:00", "01,13:00", "every day at 01:00 and 13:00"),
    ("22..22:00", "22..22:00", "every day at 22:00"),
    ("1,5..6:00", "01,05..06:00", "every day at 01:00, 05:00 and 06:00"),
    ("02:00:30", "02:00:30", "every day at 02:00:30"),
    ("*:*:0/10", "*:*:00/10", "every 10 seconds"),
    ("*-*-*", "00:00", "every day at 00:00"),
    ("12-24", "*-12-24 00:00", "on the 24th of December at 00:00"),
    ("2027-*-1", "2027-*-01 00:00", "on the 1st of every month in 2027 at 00:00"),
    (
      "2027..2029,2031-12-24", "2027..2029,2031-12-24 00:00",
      "on the 24th of December in 2027 to 2029 and 2031 at 00:00"
    ),
    ("*-*~1 23:00", "*-*~01 23:00", "on the last day of every month at 23:00"),
    ("fri *-*~1..7", "fri *-*~01..07 00:00", "on Fridays among the last 7 days of every month at 00:00"),
    ("*-2~3", "*-02~03 00:00", "on the 3rd last day of February at 00:00"),
    ("sun *-7..8-* 1:00", "sun *-07,08-* 01:00", "on Sundays in July and August at 01:00"),
    ("0,1,2,3,4,5,6:00", "00,01,02,03,04,05,06:00", "every day at 00:00, 01:00, 02:00, 03:00, 04:00, 05:00 and 06:00"),
    ("2:*", "02:*", "every minute in the hour 2"),
    // Cron.
    ("0 2 * * *", "02:00", "every day at 02:00"),
    ("*/15 * * * *", "*:00/15", "every 15 minutes"),
    ("30 1-5 * * 1-5", "mon..fri 01..05:30", "Monday to Friday every hour at minute 30 in the hours 1 to 5"),
    ("5-59/10 * * * *", "*:05/10", "every hour at minutes 5, 15, 25, 35, 45 and 55"),
    ("0 0 1 JAN,jul *", "*-01,07-01 00:00", "on the 1st of January and July at 00:00"),
    ("0 0 * * 7", "sun 00:00", "on Sundays at 00:00"),
    ("0 0 * * 0", "sun 00:00", "on Sundays at 00:00"),
    ("0 0 * * fri-sun", "fri..sun 00:00", "Friday to Sunday at 00:00"),
    ("0 0 * * 0-7", "00:00", "every day at 00:00"),
    ("0 0 13 * 5", "0 0 13 * 5", "on the 13th of every month, or on Fridays (either is enough), at 00:00"),
    ("0 0 1-31 6 MON", "0 0 1-31 6 1", "every day in June, or on Mondays in June (either is enough), at 00:00"),
    (
      "0 */4 1-31/2 * 0,6", "0 */4 1-31/2 * 0,6",
      "on the 1st, 3rd, 5th, 7th, 9th, 11th, 13th, 15th, 17th, 19th, 21st, 23rd, 25th, 27th, 29th and 31st of every month, "
        + "or on Saturdays and Sundays (either is enough), every 4 hours"
    ),
    (
      "0 0 */2 * 1", "mon *-*-01/2 00:00",
      "on Mondays among the 1st, 3rd, 5th, 7th, 9th, 11th, 13th, 15th, 17th, 19th, 21st, 23rd, 25th, 27th, 29th and 31st of "
        + "every month at 00:00"
    ),
    ("@hourly", "*:00", "every hour"), ("@daily", "00:00", "every day at 00:00"),
    ("@weekly", "sun 00:00", "on Sundays at 00:00"), ("@monthly", "*-*-01 00:00", "on the 1st of every month at 00:00"),
    ("@yearly", "*-01-01 00:00", "on the 1st of January at 00:00"),
  ])
  func aTextHasOneNormalFormAndWords(_ text: String, _ normalized: String, _ words: String) throws {
    let schedule = try Schedule(text)
    #expect(schedule.text == text)
    #expect(schedule.normalized == normalized)
    #expect(schedule.inWords == words)
    let again = try Schedule(normalized)
    #expect(again.normalized == normalized && again.events == schedule.events)
  }

  /// How hours are written decides what a change of the clock does.
  @Test(arguments: [
    ("2:30", CalendarEvent.Shape.timesOfDay), ("1,2,3:30", .timesOfDay), ("daily", .timesOfDay), ("2:*", .timesOfDay),
    ("30 1,2,3 * * *", .timesOfDay), ("*/5 2 * * *", .timesOfDay), ("mon..fri", .timesOfDay),
    ("*:30", .interval), ("1..3:30", .interval), ("0/6:30", .interval), ("1,3..4:30", .interval),
    ("2..2:30", .interval),
    ("hourly", .interval), ("30 * * * *", .interval), ("30 */2 * * *", .interval), ("0 1-3 * * *", .interval),
    ("0 1,4-5 * * *", .interval),
  ])
  func theShapeGoesByHowTheHoursAreWritten(_ text: String, _ shape: CalendarEvent.Shape) throws {
    #expect(try Schedule(text).events.map(\.shape) == [shape])
    #expect(try Schedule(Schedule(text).normalized).events.map(\.shape) == [shape])
  }

  @Test(arguments: [
    ("0 0 * * 7", ["2026-01-04 00:00", "2026-01-11 00:00", "2026-01-18 00:00"]),
    ("0 0 * * 0", ["2026-01-04 00:00", "2026-01-11 00:00", "2026-01-18 00:00"]),
    ("0 0 * * 5-7", ["2026-01-02 00:00", "2026-01-03 00:00", "2026-01-04 00:00"]),
    // The 13th, or any Friday; a field that begins with * restricts nothing by itself.
    ("0 0 13 * 5", ["2026-01-02 00:00", "2026-01-09 00:00", "2026-01-13 00:00"]),
    ("0 0 1 * 1", ["2026-01-01 00:00", "2026-01-05 00:00", "2026-01-12 00:00"]),
    ("0 0 1-31 * 1", ["2026-01-01 00:00", "2026-01-02 00:00", "2026-01-03 00:00"]),
    ("0 0 */2 * 1", ["2026-01-05 00:00", "2026-01-19 00:00", "2026-02-09 00:00"]),
    ("0 0 13 * */7", ["2026-09-13 00:00", "2026-12-13 00:00", "2027-06-13 00:00"]),
    ("0 0 29 2 *", ["2028-02-29 00:00", "2032-02-29 00:00", "2036-02-29 00:00"]),
    ("0 0 29 2 1", ["2026-02-02 00:00", "2026-02-09 00:00", "2026-02-16 00:00"]),
    ("mon *-2-29", ["2044-02-29 00:00", "2072-02-29 00:00", "2112-02-29 00:00"]),
    ("0 0 31 * *", ["2026-01-31 00:00", "2026-03-31 00:00", "2026-05-31 00:00"]),
    ("*-*~1", ["2026-01-31 00:00", "2026-02-28 00:00", "2026-03-31 00:00"]),
    ("59 23 31 12 *", ["2026-12-31 23:59", "2027-12-31 23:59", "2028-12-31 23:59"]),
    ("2027-01-01 5:00", ["2027-01-01 05:00"]),
    ("2020-01-01", []),
  ])
  func theFirstRuns(_ text: String, _ expected: [String]) throws {
    #expect(try runs(text) == expected)
  }

  @Test func schedulesAreMergedAndEachInstantRunsOnce() throws {
    #expect(
      try runs("0/6:00", "0 12 * * *", "daily", "7:00", after: "2026-01-01T05:00:00Z", count: 5) == [
        "2026-01-01 06:00", "2026-01-01 07:00", "2026-01-01 12:00", "2026-01-01 18:00", "2026-01-02 00:00",
      ])
    #expect(try runs("2026-01-01 1:00", "2026-01-01 0:30") == ["2026-01-01 00:30", "2026-01-01 01:00"])
  }

  /// A run at the very instant that is asked from isn't "after" it.
  @Test func runsComeAfterTheGivenTime() throws {
    #expect(try runs("0:00:0/30", after: "2026-01-01T00:00:00Z", count: 1) == ["2026-01-01 00:00:30"])
    #expect(try runs("minutely", after: "2026-12-31T23:59:59Z", count: 1) == ["2027-01-01 00:00"])
  }

  @Test func datesAreCountedAsTheCalendarHasThem() {
    for number in stride(from: -800_000, through: 800_000, by: 37) {
      let date = CivilDate(dayNumber: number)
      #expect(date.dayNumber == number && (1...CivilDate.days(inMonth: date.month, of: date.year)).contains(date.day))
    }
    #expect(CivilDate(dayNumber: 0) == CivilDate(year: 1970, month: 1, day: 1))
    #expect(CivilDate.weekday(ofDayNumber: CivilDate(year: 2026, month: 11, day: 27).dayNumber) == 4)
  }
}
