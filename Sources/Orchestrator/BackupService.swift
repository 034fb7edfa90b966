import Foundation
import Locks
import Logging
import Model

/// Everything that Cobweb can be asked to do, in the domain's words. The API above it only translates.
///
/// Reads are synchronous and short. Changes are made as `BackupService+Change.swift` says; work that takes time is a
/// job, which `JobQueue` starts and `JobRunner` carries to its end.
package final class BackupService: Sendable {
  package let limits: ServiceLimits
  package let startedAt: Date
  package let zones: ServerZones

  let engine: any BlockEngine
  let transactions: CatalogTransactions
  let queue: JobQueue
  let serving: Serving
  /// What the start leaves to be done beside the first requests.
  let background: BackgroundTasks
  /// Failures of attached images, and damage of backups that a reader met, which are on their way to the catalog.
  private let failureReports: BackgroundTasks
  let keys = KeysInFlight()
  let looks: ImageLooks
  let logger: Logger

  /// Nothing happens before ``start(_:)``.
  package init(
    catalog: any BackupCatalog, engine: any BlockEngine, time: any TimeSource, logger: Logger,
    limits: ServiceLimits = ServiceLimits(), zones: ServerZones = ServerZones()
  ) {
    self.limits = limits
    self.zones = zones
    self.engine = engine
    self.logger = logger
    startedAt = time.now()
    background = BackgroundTasks(time)
    failureReports = BackgroundTasks(time)
    looks = ImageLooks(engine: engine, limits: limits, time: time)
    transactions = CatalogTransactions(catalog: catalog, time: time, limits: limits, logger: logger)
    serving = Serving(transactions: transactions, engine: engine, limits: limits, logger: logger)
    let runner = JobRunner(transactions: transactions, engine: engine, serving: serving, limits: limits, logger: logger)
    queue = JobQueue(runner: runner, transactions: transactions, limits: limits)
  }

  /// "io_uring" or "epoll".
  package var ioBackend: String { engine.ioBackend }

  /// Whether images or repositories haven't been looked at yet since the start.
  package var isProbing: Bool { background.isUnderWay }

  /// Throws if the catalog can't be read.
  package func isReady() throws { _ = try transactions.read { try $0.eventSpan() } }

  /// Brings the catalog in line with what happened while it didn't run, and with the config. To be called once,
  /// before anything else. What may wait for a silent storage or peer goes on after it, see ``isProbing``.
  ///
  /// Throws a `DomainError` if the config contradicts what was made over REST, or declares a new repository that can't
  /// be opened; and what the catalog throws.
  package func start(_ declarations: Declarations = Declarations()) async throws {
    try transactions.feed.start()
    engine.onImageFailure { [weak self] failure in
      guard let self else { return }
      failureReports.begin { [self] in await announce(failure) }
    }
    engine.onBackupDamage { [weak self] damage in
      guard let self else { return }
      failureReports.begin { [self] in await note(damage) }
    }
    engine.onFleecingLoss { [weak self] loss in
      guard let self else { return }
      failureReports.begin { [self] in await serving.fleecings.end(loss.fleecing, as: .broken(loss.problem)) }
    }
    do {
      try await StartUp(self, declarations).run()
      serving.fleecings.watch()
    } catch {
      background.cancel()
      throw error
    }
  }

  /// Takes no more jobs, interrupts those that wait, and gives those that run `grace` to come to a halt. Then nothing
  /// is attached or exported any more, and streams and waits end. What is attached and exported stays so in the
  /// catalog, for the next start. The engine, which serves it still, and the catalog are the composer's to close.
  package func stop(grace: Duration) async {
    let deadline = transactions.time.instant + grace
    background.cancel()
    await CatalogDeadline.wait(until: deadline) {
      await queue.stop(grace: grace)
      await serving.stop(until: deadline)
      await background.wait(until: deadline)
      await failureReports.wait(until: deadline)
    }
    transactions.close()
  }

  /// What ``stop(grace:)`` waits for at this moment, in words.
  package var unfinished: [String] {
    queue.liveJobs.titles + (serving.turns.isHeld ? ["a change of what is attached and exported"] : [])
      + (background.isUnderWay ? ["the first look at images and repositories"] : [])
  }
}

/// What the config file declares. Taking it out of there unregisters it, and deletes no data.
package struct Declarations: Sendable {
  package var repositories: [RepositoryDraft]
  /// Each with its format.
  package var images: [ImageDraft]

  package init(repositories: [RepositoryDraft] = [], images: [ImageDraft] = []) {
    self.repositories = repositories
    self.images = images
  }
}
