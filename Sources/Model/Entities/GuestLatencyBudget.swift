/// How long the requests of a guest may take while its image is backed up: the backup slows down to keep to it.
///
/// It bounds their 99th percentile.
package enum GuestLatencyBudget: Hashable, Sendable, Codable {
  /// Longer than before the backup by so much.
  case percent(UInt64)
  case microseconds(UInt64)

  package static let percents: ClosedRange<UInt64> = 1...10_000
  package static let durations: ClosedRange<UInt64> = 1...60_000_000
}
