import Locks
import Model

/// One listener: committed events in order of id, each once, and progress between them. For one task at a time.
package final class EventStream: Sendable {
  package enum Item: Hashable, Sendable {
    case event(Event)
    /// How far a running job is. Has no id, isn't stored, and may be left out.
    case progress(JobID, JobProgress)
    /// Events that the listener asked for aren't kept any more: list again. What follows comes after `newest`.
    case gap(newest: Int64)
  }

  private struct State {
    var cursor: Int64
    var pending: [Event] = []
    var tickSerial: UInt64 = 0
    var hasGap: Bool
    var isOver = false
  }

  private let feed: EventFeed
  private let catalog: any BackupCatalog
  private let job: JobID?
  private let state: Lock<State>

  init(feed: EventFeed, catalog: any BackupCatalog, after cursor: Int64, job: JobID?, beginsWithGap: Bool) {
    self.feed = feed
    self.catalog = catalog
    self.job = job
    state = Lock(State(cursor: cursor, hasGap: beginsWithGap))
  }

  /// Waits for the next one. Nil when the stream is over: its job has ended and everything was told, the service
  /// stops, the task was cancelled, or the catalog can't be read (come back with the last id).
  package func next() async -> Item? {
    while !Task.isCancelled, !feed.signal.isClosed {
      let seen = feed.signal.version
      do {
        if let item = try item() { return item }
        if try isOver() { return nil }
      } catch {
        return nil
      }
      await feed.signal.wait(beyond: seen)
    }
    return nil
  }

  /// What can be told at once.
  private func item() throws -> Item? {
    if let newest = takeGap() { return .gap(newest: newest) }
    if let event = takePending() { return .event(event) }
    // A page may hold nothing for this listener and still not be the last one.
    while !state.withLock({ $0.isOver }) {
      let cursor = state.withLock { $0.cursor }
      switch try feed.portion(after: cursor, job: job) {
      case .gap(let newest):
        state.withLock { $0.cursor = newest }
        return .gap(newest: newest)
      case .events(let events, let reached):
        state.withLock { state in
          state.pending = events
          state.cursor = reached
        }
        if let event = takePending() { return .event(event) }
        if reached == cursor { return takeTick() }
      }
    }
    return nil
  }

  private func takeGap() -> Int64? {
    state.withLock { state in
      defer { state.hasGap = false }
      return state.hasGap ? state.cursor : nil
    }
  }

  private func takePending() -> Event? {
    state.withLock { state in
      guard !state.pending.isEmpty else { return nil }
      let event = state.pending.removeFirst()
      if let job, event.job == job, event.endsJob {
        state.isOver = true
        state.pending = []
      }
      return event
    }
  }

  private func takeTick() -> Item? {
    let serial = state.withLock { $0.tickSerial }
    guard let tick = feed.tick(after: serial, job: job) else { return nil }
    state.withLock { $0.tickSerial = tick.serial }
    return .progress(tick.job, tick.progress)
  }

  /// Whether the stream's job has ended, and nothing of it is left to tell.
  private func isOver() throws -> Bool {
    if state.withLock({ $0.isOver }) { return true }
    guard let job else { return false }
    let cursor = state.withLock { $0.cursor }
    return try catalog.read { catalog in
      guard try catalog.job(job)?.state.isEnded ?? true else { return false }
      return try catalog.events(after: cursor, job: job, limit: 1).isEmpty
    }
  }
}

extension Event {
  /// Whether it tells that its job has ended.
  fileprivate var endsJob: Bool {
    guard kind == .jobChanged else { return false }
    return payload.state.flatMap(JobState.init(rawValue:))?.isEnded ?? false
  }
}
