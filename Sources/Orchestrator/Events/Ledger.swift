import Foundation
import Logging
import Model

/// The one way to the catalog: what commits here reaches the listeners.
final class Ledger: Sendable {
  let catalog: any BackupCatalog
  let clock: any WallClock
  let feed: EventFeed
  /// Raised after each commit.
  let commits = ChangeSignal()
  private let limits: ServiceLimits
  private let logger: Logger

  init(catalog: any BackupCatalog, clock: any WallClock, limits: ServiceLimits, logger: Logger) {
    self.catalog = catalog
    self.clock = clock
    self.limits = limits
    self.logger = logger
    feed = EventFeed(catalog: catalog, limits: limits, logger: logger)
  }

  /// Runs `body` on one unchanging view. Blocks the thread: by key or for few pages only.
  func read<Result>(_ body: (any CatalogReading) throws -> Result) throws -> Result { try catalog.read(body) }

  /// Runs `body` as one transaction, with the time that it happens at, and tells its events.
  func write<Result: Sendable>(
    _ body: @Sendable @escaping (any CatalogWriting, Date) throws -> Result
  ) async throws -> Result {
    let now = clock.now()
    let kept = feed.eventsKeptIfPruningIsDue()
    // Also when the write throws: it may be committed, and only its answer lost.
    defer {
      feed.advance()
      commits.raise()
    }
    return try await catalog.write { catalog in
      let result = try body(catalog, now)
      if let kept { try catalog.pruneEvents(keeping: kept) }
      return result
    }
  }

  /// Tries until it succeeds, a bounded number of times, with growing delays. Not beyond a ``CatalogDeadline``: whoever
  /// waits for the answer is told.
  func persistently<Result: Sendable>(_ body: () async throws -> Result) async throws -> Result {
    var delay = limits.commitRetryDelay
    for _ in 1..<max(1, limits.commitAttempts) {
      do { return try await body() } catch {
        guard !CatalogDeadline.hasPassed, (error as? DomainError)?.code != .stopping else { throw error }
        logger.warning("the catalog failed; trying again", metadata: ["error": "\(error)"])
      }
      try? await Task.sleep(for: delay)
      delay *= 2
    }
    return try await body()
  }

  func close() {
    feed.close()
    commits.close()
  }
}

extension CatalogWriting {
  func announce(_ kind: Event.Kind, _ image: Image, at now: Date, job: JobID? = nil) throws {
    try append(Event(at: now, kind: kind, subject: image.id.ulid, job: job, payload: EventPayload(image)))
  }

  /// An attached image that is written no more.
  func announce(_ failure: ImageFailure, of image: Image, at now: Date) throws {
    let payload = EventPayload(image, failure: failure)
    try append(Event(at: now, kind: .imageChanged, subject: image.id.ulid, payload: payload))
  }

  func announce(_ kind: Event.Kind, _ repository: Repository, at now: Date, job: JobID? = nil) throws {
    try append(Event(at: now, kind: kind, subject: repository.id.ulid, job: job, payload: EventPayload(repository)))
  }

  func announce(_ kind: Event.Kind, _ backup: Backup, at now: Date, job: JobID? = nil) throws {
    try append(
      Event(at: now, kind: kind, subject: backup.id.ulid, job: job ?? backup.job, payload: EventPayload(backup)))
  }

  func announce(_ kind: Event.Kind, _ export: Export, at now: Date, job: JobID? = nil) throws {
    try append(Event(at: now, kind: kind, subject: export.id.ulid, job: job, payload: EventPayload(export)))
  }

  func announce(_ kind: Event.Kind, _ job: Job, at now: Date) throws {
    try append(Event(at: now, kind: kind, subject: job.id.ulid, job: job.id, payload: EventPayload(job)))
  }
}

extension Event {
  /// Whether it tells that its job has ended.
  var endsJob: Bool {
    guard kind == .jobChanged else { return false }
    return payload.state.flatMap(JobState.init(rawValue:))?.isEnded ?? false
  }
}

/// All items of a list, page by page. Only for lists that something bounds.
func allPages<Item>(_ page: (PageRequest) throws -> Page<Item>) throws -> [Item] {
  var request = PageRequest(limit: PageRequest.maximumLimit)
  var items: [Item] = []
  while true {
    let page = try page(request)
    items += page.items
    guard let next = page.next else { return items }
    request.after = next
  }
}
