import Foundation

@testable import Schedules

extension UnixTime {
  /// E.g. `2026-03-29T01:00:00Z`.
  init(_ text: String) throws {
    self.init(Int(try Date(text, strategy: .iso8601).timeIntervalSince1970))
  }

  var text: String {
    let wall = WallTime(seconds)
    return "\(wall.dateText) \(wall.timeText)"
  }
}

extension ZoneFolder {
  /// The one that this host has.
  static let ofHost = ZoneFolder(path: "/usr/share/zoneinfo")
}

/// The first runs after a time in UTC, as `2026-01-01 02:30`, in UTC.
func runs(
  _ texts: String..., zone: String = "UTC", after start: String = "2025-12-31T23:59:59Z", count: Int = 3
) throws -> [String] {
  let schedules = try texts.map { try Schedule($0) }
  let rules = try ZoneFolder.ofHost.rules(named: zone)
  return RunSequence(schedules, in: rules, after: try UnixTime(start)).prefix(count).map(\.at.text)
}
