import Foundation
import Locks
import Model

/// A clock that stands still until it is moved. What waits, waits for as long as it takes: see ``SimulatedTime``.
package final class ManualClock: TimeSource {
  private let time: Lock<Date>

  /// 2026-01-01 00:00:00 UTC.
  package static let epoch = Date(timeIntervalSince1970: 1_767_225_600)

  package init(_ start: Date = ManualClock.epoch) { time = Lock(start) }

  package func now() -> Date { time.withLock { $0 } }

  package var instant: ContinuousClock.Instant { .now }

  package func sleep(until deadline: ContinuousClock.Instant) async throws {
    try await Task.sleep(until: deadline, clock: .continuous)
  }

  package func set(_ date: Date) { time.withLock { $0 = date } }

  /// Moves it on, or back if `seconds` is negative.
  package func advance(bySeconds seconds: TimeInterval) { time.withLock { $0 += seconds } }
}
