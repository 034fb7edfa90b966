import Foundation
import Logging
import Model

/// The one way to the catalog: what commits here reaches the listeners.
final class CatalogTransactions: Sendable {
  let catalog: any BackupCatalog
  let time: any TimeSource
  let feed: EventFeed
  /// Raised after each commit.
  let commits = ChangeSignal()
  private let limits: ServiceLimits
  private let logger: Logger

  init(catalog: any BackupCatalog, time: any TimeSource, limits: ServiceLimits, logger: Logger) {
    self.catalog = catalog
    self.time = time
    self.limits = limits
    self.logger = logger
    feed = EventFeed(catalog: catalog, limits: limits, logger: logger)
  }

  /// Runs `body` on one unchanging view. Blocks the thread: by key or for few pages only.
  func read<Result>(_ body: (any CatalogReading) throws -> Result) throws -> Result { try catalog.read(body) }

  /// As ``read(_:)``, for what a use case decides by.
  func view<Result>(by caller: Principal, _ body: (CatalogView) throws -> Result) throws -> Result {
    let now = time.now()
    return try catalog.read { try body(CatalogView(catalog: $0, now: now, caller: caller)) }
  }

  /// Runs `body` as one transaction, and tells its events.
  func write<Result: Sendable>(
    by caller: Principal = .server, _ body: @Sendable @escaping (CatalogTransaction) throws -> Result
  ) async throws -> Result {
    let now = time.now()
    let kept = feed.eventsKeptIfPruningIsDue()
    // Also when the write throws: it may be committed, and only its answer lost.
    defer {
      feed.advance()
      commits.raise()
    }
    return try await catalog.write { catalog in
      let transaction = CatalogTransaction(catalog, now: now, caller: caller)
      let result = try body(transaction)
      if let kept { try transaction.pruneEvents(keeping: kept) }
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
      try? await time.sleep(for: delay)
      delay *= 2
    }
    return try await body()
  }

  func close() {
    feed.close()
    commits.close()
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
