import Foundation
import Locks
import Model

/// A clock that moves only when it is told to, and then wakes what sleeps, in the order of its time: hours pass in
/// moments.
package final class SimulatedTime: TimeSource {
  private struct Sleeper {
    var deadline: ContinuousClock.Instant
    var continuation: CheckedContinuation<Void, Never>
  }

  private struct State {
    var passed = Duration.zero
    var nextTicket: UInt64 = 0
    var sleepers: [UInt64: Sleeper] = [:]
    /// Grows with each sleep that begins or ends.
    var activity: UInt64 = 0
  }

  private let start: ContinuousClock.Instant = .now
  private let startDate: Date
  private let state = Lock(State())

  package init(_ startDate: Date = ManualClock.epoch) { self.startDate = startDate }

  /// How much time has passed here.
  package var passed: Duration { state.withLock { $0.passed } }

  package func now() -> Date {
    let (seconds, attoseconds) = passed.components
    return startDate + Double(seconds * 1000 + attoseconds / 1_000_000_000_000_000) / 1000
  }

  package var instant: ContinuousClock.Instant { start + passed }

  package func sleep(until deadline: ContinuousClock.Instant) async throws {
    let ticket = state.withLock { state in
      state.nextTicket += 1
      return state.nextTicket
    }
    await withTaskCancellationHandler {
      await withCheckedContinuation { continuation in
        let sleeps = state.withLock { state in
          state.activity += 1
          guard !Task.isCancelled, start + state.passed < deadline else { return false }
          state.sleepers[ticket] = Sleeper(deadline: deadline, continuation: continuation)
          return true
        }
        if !sleeps { continuation.resume() }
      }
    } onCancel: {
      wake(ticket)
    }
    try Task.checkCancellation()
  }

  private func wake(_ ticket: UInt64) {
    let sleeper = state.withLock { state in
      state.activity += 1
      return state.sleepers.removeValue(forKey: ticket)
    }
    sleeper?.continuation.resume()
  }

  /// Moves on from one awakening to the next until `isDone`, or `limit` has passed. Returns whether it is done.
  package func pass(atMost limit: Duration, until isDone: () throws -> Bool) async throws -> Bool {
    let end = passed + limit
    while try !isDone() {
      await settle()
      if try isDone() { break }
      guard passed < end else { return false }
      moveOn(to: end)
    }
    return true
  }

  /// Moves on by `length`, from one awakening to the next.
  package func pass(_ length: Duration) async throws { _ = try await pass(atMost: length) { false } }

  /// To the next awakening, at the latest to `end`.
  private func moveOn(to end: Duration) {
    let woken = state.withLock { state in
      let next = state.sleepers.values.map { $0.deadline - start }.min() ?? end
      state.passed = max(state.passed, min(next, end))
      state.activity += 1
      let now = start + state.passed
      let woken = state.sleepers.filter { $0.value.deadline <= now }
      for ticket in woken.keys { state.sleepers[ticket] = nil }
      return woken.sorted { ($0.value.deadline, $0.key) < ($1.value.deadline, $1.key) }
    }
    for (_, sleeper) in woken { sleeper.continuation.resume() }
  }

  /// So often in a row nothing may have begun or ended to sleep before nothing is expected to be under way.
  private static let quietTurns = 4
  /// Within a turn the processor is given up. On a busy machine the turn takes as long as others wait for it too.
  private static let turn = Duration.microseconds(50)

  /// Lets what is awake go on until it sleeps too. What takes longer all the same only sees its time pass faster.
  private func settle() async {
    var seen = state.withLock { $0.activity }
    var quietTurns = 0
    while quietTurns < Self.quietTurns {
      try? await Task.sleep(for: Self.turn)
      await Task.yield()
      let now = state.withLock { $0.activity }
      quietTurns = now == seen ? quietTurns + 1 : 0
      seen = now
    }
  }
}
