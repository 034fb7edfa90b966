// When something is due: schedules as people write them, time zones as the host knows them, and the runs that come of
// both. Values, but for `ZoneFolder` and `HostZone`, which read small files.
//
// ## The picture
//
//     "mon..fri 02:30" ──▶ Schedule ──▶ CalendarEvent ─┐
//     "0 4 13 * 5"            │         CalendarEvent ─┼──▶ EventRuns ──▶ RunSequence ──▶ PlannedRun, PlannedRun, …
//                     normalized, inWords              │     (the rule for days when the clock changes)
//     "Europe/Berlin" ──▶ ZoneFolder ──▶ ZoneRules ────┘
//
// A `CalendarEvent` knows wall clocks only, `ZoneRules` know when a wall clock shows what, and `EventRuns` alone brings
// them together. `WallTime` and `UnixTime` are different types, so that neither is taken for the other.
//
// ## What keeps it sound
//
// 1. A next date is found month by month in bit masks, a next time in three masks: nothing walks over minutes.
// 2. Every search ends: at 40 years (`CalendarEvent.horizon`), or with the years that a schedule names. What never runs
//    is refused when it is read.
// 3. Equal `normalized` texts run at equal times, and a normalized text reads as itself. Calendar events in that form
//    mean the same to systemd, which reads all but lists of days from the month's end.
// 4. Hours keep how they were written (`CalendarEvent.Shape`): it decides what happens when the clock changes.
// 5. A time of day runs at the first instant at which the clock shows it or a later time. So one instant follows from
//    one planned time, in order, whatever the clock does.
// 6. Every fault knows its place in the text, and a fault is never a trap (`ScheduleFuzzTests`).
// 7. A zone's file is asked at each look-up whether it has changed (`ZoneFolder`).
//
// ## The folders
//
// - Grammar/     cron, words and calendar events, into events or faults.
// - Calendar/    dates, wall times, events and their search.
// - Wording/     the normal form, and English.
// - TimeZones/   TZif files, POSIX rules for later years, the host's own zone.
// - Runs/        the rule for changes of the clock; several schedules as one sequence.
