import Foundation

/// Hands what happens on other threads to one that blocks for it.
final class Mailbox<Event: Sendable>: @unchecked Sendable {
  // Safe to share: `events` is touched with `condition` locked.
  private let condition = NSCondition()
  private var events: [Event] = []

  func post(_ event: Event) {
    condition.lock()
    events.append(event)
    condition.signal()
    condition.unlock()
  }

  /// Blocks until something has happened. Nil at the deadline.
  func next(until deadline: ContinuousClock.Instant? = nil) -> Event? {
    condition.lock()
    defer { condition.unlock() }
    while events.isEmpty {
      guard let deadline else {
        condition.wait()
        continue
      }
      let left = deadline - .now
      guard left > .zero else { return nil }
      _ = condition.wait(until: Date(timeIntervalSinceNow: left / .seconds(1)))
    }
    return events.removeFirst()
  }
}
