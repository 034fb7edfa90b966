import Foundation
import Model
import Schedules

/// A question for the runs of schedules that needn't belong to anything.
package struct SchedulePreviewQuery: Hashable, Sendable {
  package var schedules: [String]
  /// The server's if nil.
  package var timeZone: String?
  /// A run at this very time counts. Now if nil.
  package var from: Date?
  package var count: Int

  package static let standardCount = 10
  package static let maximumCount = 1000

  package init(
    schedules: [String], timeZone: String? = nil, from: Date? = nil, count: Int = SchedulePreviewQuery.standardCount
  ) {
    self.schedules = schedules
    self.timeZone = timeZone
    self.from = from
    self.count = count
  }
}

/// What schedules mean, and when they run.
package struct SchedulePreview: Sendable {
  /// As they were given.
  package var schedules: [Schedule]
  package var timeZone: String
  /// In ascending order; fewer than asked for where the schedules name years.
  package var runs: [PlannedRun]
}

extension BackupService {
  /// Where runs are looked for: what schedules can name, without years of which the zones know nothing.
  private static let previewTimes = Date(timeIntervalSince1970: 0)..<Date(timeIntervalSince1970: 7_258_118_400)

  /// Changes nothing, and reads no row. Its cost is bounded by ``SchedulePreviewQuery/maximumCount`` and
  /// `Schedule.maximumCount`.
  package func preview(_ query: SchedulePreviewQuery) throws(DomainError) -> SchedulePreview {
    let zone = try zones.rules(named: query.timeZone)
    let from = query.from ?? transactions.time.now()
    guard Self.previewTimes.contains(from) else {
      let detail = "must be from 1970 to 2199"
      throw DomainError(.invalidField, "'from' \(detail)", faults: [DomainError.Fault(.from, detail)])
    }
    let start = UnixTime(before: from)
    let schedules = try ScheduleRules.schedules(query.schedules, at: .schedule, in: zone, after: start)
    let runs = RunSequence(schedules, in: zone, after: start).prefix(query.count)
    return SchedulePreview(schedules: schedules, timeZone: zone.name, runs: Array(runs))
  }
}
