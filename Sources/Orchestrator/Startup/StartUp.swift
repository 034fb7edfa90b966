import Foundation
import Logging
import Model

/// How the catalog is brought in line with the world.
///
/// Before the first request, by the rows alone, so that no silent storage or peer delays a guest:
///
/// 1. Jobs that weren't ended become `interrupted`: nothing works for them any more. Backups that were `running` then
///    are noted, by repository. Fleecings that weren't ended are broken: no moment outlives the server.
/// 2. Declared repositories and images that the catalog knows are brought in line with it.
///
/// Then, all of it side by side, and each only waited for as long as `ServiceLimits` says:
///
/// 3. Each image that was attached is attached again, and its exports are served. What can't be is unavailable; an image
///    that another process still holds is tried for a while longer. Other exports are served again.
/// 4. Declared repositories that the rows don't tell are opened, and declared images that the catalog doesn't know are
///    registered, with the ids that repositories know them by. Declared images are compared with each other and with
///    the rest, by which files they are. What contradicts fails the start, if it is found out in time.
/// 5. Each repository is cleaned up, and tells what became of the backups of 1: what it holds whole is complete, for the
///    manifest decides; the rest failed. Deletions that began are settled in the same way. One that can't be opened
///    becomes `unavailable`.
/// 6. Each image at rest is opened once, to see whether it is there.
/// 7. What interrupted restores left beside their targets is removed.
///
/// Until 5 and 6 have come to a repository or image it shows the state that it had, and its jobs wait.
struct StartUp {
  let service: BackupService
  let declarations: Declarations

  init(_ service: BackupService, _ declarations: Declarations) {
    self.service = service
    self.declarations = declarations
  }

  private var transactions: CatalogTransactions { service.transactions }
  private var limits: ServiceLimits { service.limits }
  private var serving: Serving { service.serving }
  private var background: BackgroundTasks { service.background }

  func run() async throws {
    try declarations.refuseDuplicates()
    try await interruptJobs()
    try await serving.fleecings.breakAll()
    let repositories = RepositoryReconciliation(service, declarations.repositories)
    let known = try await repositories.keepKnown()
    let imageReconciliation = ImageReconciliation(service, declarations)
    let rest = try await imageReconciliation.keepKnown()
    let recoveries = try recoveries()
    let images = try images()
    await service.queue.awaitLooks(at: recoveries.map { .repository($0.repository.id) })
    await service.queue.awaitLooks(at: images.filter(\.isAtRest).map { .image($0.id) })

    try await serveAgain(images.filter { !$0.isAtRest })
    // Which repository a newcomer is may be known only once it is open.
    let isSettled = { (recovery: StartupRecovery) in
      recovery.repository.managedBy != .config || known.kept.contains(recovery.repository.id)
    }
    recover(recoveries.filter(isSettled))
    look(at: images.filter(\.isAtRest))
    // Also where no job tells of one: the start before this one may have been killed after its step 1.
    background.begin { await removeRestoreLeftovers() }
    if !known.newcomers.isEmpty || !declarations.images.isEmpty || !rest.isEmpty {
      let unsettled = recoveries.filter { !isSettled($0) }
      try await background.begin(waitingUntil: transactions.time.instant + limits.declarationTimeout) {
        let ids = try await repositories.settle(known)
        let new = try ids.compactMap { id in try transactions.read { try $0.repository(id) } }
          .filter { new in !unsettled.contains { $0.repository.id == new.id } }
        recover(try unsettled + new.map { try StartupRecovery(service, of: $0) })
        look(at: try await imageReconciliation.settle(rest))
      } late: { error in
        service.logger.error("what the config declares can't be had", metadata: ["error": "\(error)"])
      }
    }
    await background.wait(until: transactions.time.instant + limits.lookTimeout)
  }

  private func recoveries() throws -> [StartupRecovery] {
    try transactions.read { catalog in try allPages { try catalog.repositories($0) } }
      .map { try StartupRecovery(service, of: $0) }
  }

  private func recover(_ recoveries: [StartupRecovery]) {
    background.begin(onEach: recoveries, atMost: limits.concurrentLooks, turn: limits.lookTurn) { await $0.run() }
  }

  private func interruptJobs() async throws {
    let jobs = try transactions.read { try $0.liveJobs() }
    for batch in jobs.batches(of: service.limits.mergeBatch) {
      try await transactions.write { transaction in
        for var job in batch {
          try Self.noteBegunDeletion(by: job, in: transaction)
          try job.interrupt(in: transaction)
          try transaction.update(job)
        }
      }
    }
    if !jobs.isEmpty {
      service.logger.notice("jobs were interrupted by the last stop", metadata: ["jobs": "\(jobs.count)"])
    }
  }

  /// A catalog of version 2 has no mark of deletions that began.
  private static func noteBegunDeletion(by job: Job, in transaction: CatalogTransaction) throws {
    guard case .deleteBackup(let id) = job.request, job.state != .queued,
      var backup = try transaction.catalog.backup(id),
      backup.beforeDeletion == nil
    else { return }
    backup.beginDeletion()
    try transaction.update(backup, job: job.id)
  }

  /// They take room and do no harm, so that failing to remove them doesn't fail the start.
  private func removeRestoreLeftovers() async {
    do {
      for file in try await service.engine.removeRestoreLeftovers(liveJobs: []) {
        service.logger.notice("removed what an interrupted restore left", metadata: ["file": "\(file)"])
      }
    } catch {
      service.logger.warning("what interrupted restores left stays there", metadata: ["error": "\(error)"])
    }
  }

  private func images() throws -> [Image] {
    try transactions.read { catalog in try allPages { try catalog.images($0) } }
  }

  private func look(at images: [Image]) {
    background.begin(onEach: images, atMost: limits.concurrentLooks, turn: limits.lookTurn) { image in
      await service.look(at: image)
    }
  }

  // MARK: Serving again

  /// Each image, and each backup, is served by itself: none waits for another's storage.
  private func serveAgain(_ attached: [Image]) async throws {
    let exports = try transactions.read { catalog in try allPages { try catalog.exports(ExportFilter(), $0) } }
    let bySource = Dictionary(grouping: exports, by: \.source)
    for image in attached {
      background.begin { await serveAgain(image.id, bySource[.image(image.id)] ?? []) }
    }
    await background.wait(until: transactions.time.instant + limits.servingTimeout)
    let served = Set(attached.map { ExportSource.image($0.id) })
    for (source, exports) in bySource where !served.contains(source) {
      background.begin {
        // Throws only when the server stops.
        try? await service.serving.alone(with: source) {
          for export in exports { await service.serving.open(export.id) }
        }
      }
    }
  }

  private func serveAgain(_ id: ImageID, _ exports: [Export]) async {
    let failure = try? await serving.alone(with: .image(id)) {
      // It may have been detached meanwhile.
      guard let image = try transactions.read({ try $0.image(id) }) else { return nil as DomainError? }
      let failure = await serving.attachAgain(image)
      let obstacles = failure.map { [id: "its image couldn't be attached: \($0.detail)"] } ?? [:]
      for export in exports { await serving.open(export.id, obstacles: obstacles) }
      return failure
    }
    guard let failure = failure ?? nil else { return }
    service.logger.warning("an image can't be attached", metadata: ["image": "\(id)", "error": "\(failure)"])
    if failure.code == .imageLocked { serving.attachWhenUnlocked(id) }
  }
}

extension BackupService {
  /// The first look at an image since the start; its jobs may start afterwards.
  func look(at image: Image) async {
    do {
      let inspection = try await engine.inspect(image.location)
      await note(.found(virtualSize: inspection.virtualSize), of: image.id)
    } catch {
      if !Task.isCancelled {
        logger.warning("an image can't be opened", metadata: ["image": "\(image.name)", "error": "\(error)"])
        await note(ImageProbe(error), of: image.id)
      }
    }
    await queue.seen(.image(image.id))
  }
}

extension Declarations {
  /// A name, a folder or a source may be declared once.
  func refuseDuplicates() throws(DomainError) {
    try Self.refuseDuplicates(repositories.map(\.name.text), "repository name")
    try Self.refuseDuplicates(repositories.map { comparablePath($0.path) }, "repository path")
    try Self.refuseDuplicates(images.map(\.name.text), "image name")
    try Self.refuseDuplicates(images.map { comparablePath($0.source.place) }, "image source")
  }

  private static func refuseDuplicates(_ texts: [String], _ what: String) throws(DomainError) {
    var seen: Set<String> = []
    for text in texts where !seen.insert(text).inserted {
      throw DomainError(.invalidField, "the config declares the \(what) '\(text)' twice", remedy: "take one out")
    }
  }
}

extension Array {
  func batches(of count: Int) -> [ArraySlice<Element>] {
    stride(from: 0, to: self.count, by: count).map { self[$0..<Swift.min($0 + count, self.count)] }
  }
}
