import Locks
import Logging
import Model

/// Committed events for live listeners, and the progress of running jobs.
///
/// E1. The catalog alone orders events: the feed takes them from there, after the last one that it has.
/// E2. A listener is a cursor. It reads the newest events from memory and older ones from the catalog, so that
///     memory is bounded however slow it is, and each event reaches it once, in order.
/// E3. Progress is the latest value per running job: a slow listener skips, it never falls behind.
final class EventFeed: Sendable {
  private struct State {
    /// The newest events, without a hole after `floor`.
    var recent: [Event] = []
    var floor: Int64 = 0
    var newest: Int64 = 0
    var prunedAt: Int64 = 0
    var isAdvancing = false
    var mustAdvanceAgain = false
    var ticks: [JobID: Tick] = [:]
    var tickCount: UInt64 = 0
  }

  private struct Tick {
    var serial: UInt64
    var progress: JobProgress
  }

  /// What a listener gets at a time.
  enum Portion {
    case events([Event], cursor: Int64)
    case gap(newest: Int64)
  }

  let signal = ChangeSignal()
  private let catalog: any BackupCatalog
  private let limits: ServiceLimits
  private let logger: Logger
  private let state = Lock(State())

  /// Events that are read from the catalog at a time.
  private static let pageSize = 256

  init(catalog: any BackupCatalog, limits: ServiceLimits, logger: Logger) {
    self.catalog = catalog
    self.limits = limits
    self.logger = logger
  }

  var newest: Int64 { state.withLock { $0.newest } }

  /// Begins behind what the catalog has.
  func start() throws {
    let newest = try catalog.read { try $0.eventSpan()?.upperBound ?? 0 }
    state.withLock { state in
      state.recent = []
      (state.floor, state.newest, state.prunedAt) = (newest, newest, newest)
    }
  }

  func close() { signal.close() }

  // MARK: Publishing

  /// Takes over what has committed since. A failure is made up for by the next call.
  func advance() {
    let isFree = state.withLock { state in
      if state.isAdvancing { state.mustAdvanceAgain = true }
      defer { state.isAdvancing = true }
      return !state.isAdvancing
    }
    guard isFree else { return }
    while takePage() {}
    signal.raise()
  }

  /// Takes over one page; returns whether there is more to do.
  private func takePage() -> Bool {
    let cursor = newest
    var page: [Event] = []
    do {
      page = try catalog.read { try $0.events(after: cursor, job: nil, limit: Self.pageSize) }
    } catch {
      logger.warning("events can't be read; they are told with the next change", metadata: ["error": "\(error)"])
    }
    return state.withLock { [page] state in
      state.recent += page
      state.newest = page.last?.id ?? state.newest
      let surplus = state.recent.count - limits.recentEvents
      if surplus > 0 {
        state.floor = state.recent[surplus - 1].id
        state.recent.removeFirst(surplus)
      }
      let isMore = page.count == Self.pageSize || state.mustAdvanceAgain
      state.mustAdvanceAgain = false
      state.isAdvancing = isMore
      return isMore
    }
  }

  /// How many events a pruning must keep, if it is time for one.
  func eventsKeptIfPruningIsDue() -> Int? {
    state.withLock { state in
      guard state.newest - state.prunedAt >= Int64(limits.pruneInterval) else { return nil }
      state.prunedAt = state.newest
      return limits.eventsKept
    }
  }

  /// Shows the progress of a running job to live listeners.
  func tick(_ job: JobID, _ progress: JobProgress) {
    state.withLock { state in
      state.tickCount += 1
      state.ticks[job] = Tick(serial: state.tickCount, progress: progress)
    }
    signal.raise()
  }

  func endTicks(of job: JobID) { state.withLock { $0.ticks[job] = nil } }

  // MARK: Listening

  /// What follows `cursor`, of one job if given.
  func portion(after cursor: Int64, job: JobID?) throws -> Portion {
    let live = state.withLock { state -> Portion? in
      guard cursor >= state.floor else { return nil }
      // From the end: live listeners are near it.
      let start = state.recent.lastIndex { $0.id <= cursor }.map { $0 + 1 } ?? state.recent.startIndex
      let events = state.recent[start...].prefix(Self.pageSize)
      let wanted = events.filter { job == nil || $0.job == job }
      return .events(wanted, cursor: events.last?.id ?? cursor)
    }
    if let live { return live }
    return try catalog.read { catalog in
      let span = try catalog.eventSpan()
      let newest = span?.upperBound ?? 0
      if cursor > newest || (span?.lowerBound ?? cursor) > cursor + 1 { return .gap(newest: newest) }
      let events = try catalog.events(after: cursor, job: job, limit: Self.pageSize)
      return .events(events, cursor: events.count < Self.pageSize ? newest : events[events.count - 1].id)
    }
  }

  /// The oldest progress that is newer than `serial`, of one job if given.
  func tick(after serial: UInt64, job: JobID?) -> (job: JobID, progress: JobProgress, serial: UInt64)? {
    state.withLock { state in
      state.ticks.lazy.filter { $0.value.serial > serial && (job == nil || $0.key == job) }
        .min { $0.value.serial < $1.value.serial }
        .map { ($0.key, $0.value.progress, $0.value.serial) }
    }
  }
}
