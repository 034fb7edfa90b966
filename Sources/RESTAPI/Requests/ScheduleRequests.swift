import Foundation
import Model
import Orchestrator
import Schedules

extension RequestFields {
  /// The body that asks for the runs of schedules.
  func schedulePreviewQuery() throws(DomainError) -> SchedulePreviewQuery {
    let schedules: [String]? = list("schedule", atMost: Schedule.maximumCount, of: "schedules, each a text") { item in
      if case .text(let text) = item { text } else { nil }
    }
    let timeZone = string("timeZone", required: false)
    let from = string("from", required: false)
    let date = from.flatMap(Timestamp.date(of:))
    if from != nil, date == nil { refuse("from", "must be a time as 2026-03-01T08:05:09.120Z") }
    let count = count("count", unit: "runs", required: false) ?? UInt64(SchedulePreviewQuery.standardCount)
    if !(1...UInt64(SchedulePreviewQuery.maximumCount)).contains(count) {
      refuse("count", "must be from 1 to \(SchedulePreviewQuery.maximumCount)")
    }
    try finish()
    guard let schedules else { throw Self.incomplete }
    return SchedulePreviewQuery(schedules: schedules, timeZone: timeZone, from: date, count: Int(count))
  }
}
