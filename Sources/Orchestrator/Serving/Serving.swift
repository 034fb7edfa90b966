import Foundation
import Locks
import Logging
import Model

/// Keeps what the engine holds attached and serves in line with the catalog. Called with the turn of the image or backup.
///
/// V1. What the engine serves is in the catalog; what the catalog calls attached or active is with the engine.
/// V2. A step of the engine that the catalog doesn't take is taken back. What could be neither taken nor taken back, or
///     can't be told, is a pending reconciliation: it is brought in line with the rows as soon as they can be read and
///     written.
/// V3. What is to be served and can't be is `unavailable`, an export with the reason.
final class Serving: Sendable {
  let transactions: CatalogTransactions
  let engine: any BlockEngine
  let limits: ServiceLimits
  let logger: Logger
  /// Of operations on each image and backup.
  let turns: AsyncMutex<ExportSource>
  let turnsReleased = ChangeSignal()
  let fleecings: LiveFleecings
  let pendingReconciliation = Lock(PendingReconciliation())

  init(transactions: CatalogTransactions, engine: any BlockEngine, limits: ServiceLimits, logger: Logger) {
    self.transactions = transactions
    self.engine = engine
    self.limits = limits
    self.logger = logger
    fleecings = LiveFleecings(transactions: transactions, engine: engine, limits: limits, logger: logger)
    turns = AsyncMutex(limit: limits.waitingOperations) { [turnsReleased] in turnsReleased.raise() }
  }

  // MARK: Images

  /// Opens the image and commits that it is attached. Throws what either says; then it isn't.
  func attach(
    _ image: Image, cache: CacheMode?, cause: Attachment.Cause, control: any JobControl, job: JobID? = nil
  ) async throws -> Image {
    let order = AttachOrder(image: image.id, location: image.location, cache: cache, lockTimeout: 0)
    let receipt = try await engine.attach(order, control: control)
    do {
      return try await change(image.id, job: job) { $0.attach(receipt, cause: cause) }
    } catch {
      let stored = try? row(of: image.id)
      if let stored, stored.state == .attached { return stored }
      await close(image.id)
      if stored == nil { follow(image: image.id) }
      throw error
    }
  }

  /// Commits that the image isn't attached, then flushes and closes it. Throws what the flush says; closed it is all
  /// the same.
  func detach(_ id: ImageID, job: JobID? = nil) async throws -> Image {
    let before = try transactions.read { catalog in
      let image = try catalog.find(id)
      try catalog.requireDetachable(image)
      return image
    }
    let image: Image
    do {
      image = try await change(id, job: job) { $0.detach() }
    } catch {
      guard let stored = try? row(of: id) else {
        follow(image: id)
        throw error
      }
      guard stored.isAtRest else { throw error }
      image = stored
    }
    do {
      try await engine.detach(id)
    } catch let error as DomainError where error.code == .imageInUse {
      // It is still open.
      _ = try await change(id, job: job) { ($0.state, $0.attachment) = (before.state, before.attachment) }
      throw error
    }
    return image
  }

  /// Attaches the image as its row says; one that can't be is unavailable from then on. Returns why it isn't.
  func attachAgain(_ image: Image) async -> DomainError? {
    guard let attachment = image.attachment else { return nil }
    do {
      _ = try await attach(
        image, cache: attachment.cache, cause: attachment.cause, control: UnattendedControl(logger: logger))
      return nil
    } catch let error as DomainError where error.code == .imageInUse {
      return nil
    } catch {
      do {
        _ = try await change(image.id) { if $0.attachment != nil { $0.state = .unavailable } }
      } catch {
        follow(image: image.id)
      }
      return error as? DomainError ?? DomainError(.internalError, String(describing: error))
    }
  }

  /// Closes what the catalog doesn't call attached.
  func close(_ id: ImageID) async {
    do { try await engine.detach(id) } catch {
      logger.error("an image can't be detached cleanly", metadata: ["image": "\(id)", "error": "\(error)"])
    }
  }

  /// Commits a change of the image's row, with its event; none if it is so already.
  func change(
    _ id: ImageID, job: JobID? = nil, _ body: @Sendable @escaping (inout Image) -> Void
  ) async throws -> Image {
    try await transactions.persistently {
      try await transactions.write { transaction in
        var image = try transaction.catalog.find(id)
        let before = image
        body(&image)
        guard image != before else { return image }
        image = try transaction.update(image, job: job)
        return image
      }
    }
  }

  private func row(of id: ImageID) throws -> Image { try transactions.read { try $0.find(id) } }

  // MARK: Exports

  /// Opens those of the image's exports that are unavailable. Returns what those that still are say.
  @discardableResult
  func openExports(of image: ImageID, job: JobID? = nil) async -> [String] {
    let rows = try? transactions.read { catalog in try allPages { try catalog.exports(ExportFilter(image: image), $0) }
    }
    var failures: [String] = []
    for export in rows ?? [] where export.state == .unavailable {
      if let failure = await open(export.id, job: job) { failures.append("export '\(export.name)': \(failure)") }
    }
    return failures
  }

  /// Serves the export as its row says; one that can't be is unavailable from then on. Returns why it isn't.
  /// `obstacles`: what is known of images that couldn't be attached.
  @discardableResult
  func open(_ id: ExportID, obstacles: [ImageID: String] = [:], job: JobID? = nil) async -> String? {
    do {
      guard let export = try transactions.read({ try $0.export(id) }) else { return nil }
      let failure = await serve(export, obstacles)
      if let failure {
        logger.warning("an export can't be opened", metadata: ["export": "\(export.name)", "error": "\(failure)"])
      }
      try await note(failure, of: id, job: job)
      return failure
    } catch {
      logger.error("the catalog doesn't take an export's state", metadata: ["export": "\(id)", "error": "\(error)"])
      follow(export: id)
      return nil
    }
  }

  /// Ends what the catalog doesn't know.
  func withdraw(_ id: ExportID) async {
    do { try await engine.withdraw(id, .hard) } catch {
      logger.error("an export can't be ended", metadata: ["export": "\(id)", "error": "\(error)"])
      follow(export: id)
    }
  }

  /// Returns why it can't be served.
  private func serve(_ export: Export, _ obstacles: [ImageID: String]) async -> String? {
    guard engine.activity(of: export.id) == nil else { return nil }
    if case .image(let image) = export.source, let obstacle = obstacles[image] { return obstacle }
    do {
      var order = try transactions.read { try export.order(in: $0) }
      order.isServedAgain = true
      try await engine.export(order)
      return nil
    } catch let error as DomainError {
      return error.detail
    } catch {
      return String(describing: error)
    }
  }

  private func note(_ failure: String?, of id: ExportID, job: JobID?) async throws {
    try await transactions.persistently {
      try await transactions.write { transaction in
        guard var export = try transaction.catalog.export(id) else { return }
        let before = export
        export.state = failure == nil ? .active : .unavailable
        export.failure = failure
        guard export != before else { return }
        try transaction.update(export, job: job)
      }
    }
  }
}
