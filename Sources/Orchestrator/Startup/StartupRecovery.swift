import Foundation
import Logging
import Model

/// Cleans up one repository, and finds out what became of the backups that were being made or deleted at the last
/// stop. Made before the first request, for later there may be others; carried out whenever the storage answers.
struct StartupRecovery: Sendable {
  private let service: BackupService
  let repository: Repository
  private let open: OpenEnds

  init(_ service: BackupService, of repository: Repository) throws {
    self.service = service
    self.repository = repository
    open = try OpenEnds(in: repository.id, service.transactions)
  }

  private var transactions: CatalogTransactions { service.transactions }

  /// Failing to isn't told to the caller: the repository is unavailable then. Its jobs may start afterwards.
  func run() async {
    do {
      // It may have been changed meanwhile, or unregistered.
      if let repository = try transactions.read({ try $0.repository(repository.id) }) { try await recover(repository) }
    } catch {
      service.logger.error(
        "the catalog doesn't take what became of a repository's backups",
        metadata: ["repository": "\(repository.name)", "error": "\(error)"])
    }
    await service.queue.seen(.repository(repository.id))
  }

  private func recover(_ repository: Repository) async throws {
    do {
      let report = try await service.engine.recover(repository.location, liveJobs: [])
      tell(report, of: repository)
      // Reading every manifest is only worth while if something is to be found out.
      if !open.isEmpty { try await settle(open, by: HeldBackups(service.engine.scan(repository.location))) }
      try await note(RepositoryFinding(report.access), of: repository)
    } catch let error as DomainError {
      service.logger.warning(
        "a repository can't be opened", metadata: ["repository": "\(repository.name)", "error": "\(error)"])
      try await giveUp(open, of: repository)
      try await note(.unreachable, of: repository)
    }
  }

  /// Backups whose end was never written down.
  private struct OpenEnds: Sendable {
    var beingMade: [BackupID]
    var beingDeleted: [BackupID]

    var isEmpty: Bool { beingMade.isEmpty && beingDeleted.isEmpty }

    init(in repository: RepositoryID, _ transactions: CatalogTransactions) throws {
      (beingMade, beingDeleted) = try transactions.read { catalog in
        let running = BackupFilter(repository: repository, state: .running)
        return (
          try allPages { try catalog.backups(running, $0) }.map(\.id), try catalog.begunDeletions(in: repository)
        )
      }
    }
  }

  private func settle(_ open: OpenEnds, by held: HeldBackups) async throws {
    try await inSteps(open.beingMade) { id, transaction in
      guard var backup = try transaction.catalog.backup(id) else { return }
      if let whole = held[id], whole.state == .complete {
        backup.complete(as: whole)
      } else {
        backup.fail("the server stopped while the backup was made", at: transaction.now)
      }
      try transaction.update(backup)
    }
    try await inSteps(open.beingDeleted) { id, transaction in
      try transaction.settleDeletion(of: id, by: held, job: nil)
    }
  }

  private func giveUp(_ open: OpenEnds, of repository: Repository) async throws {
    try await inSteps(open.beingMade) { id, transaction in
      guard var backup = try transaction.catalog.backup(id) else { return }
      backup.fail(
        "the server stopped while the backup was made, and its repository can't be opened: rescan it to find out "
          + "whether the backup is whole", at: transaction.now)
      try transaction.update(backup)
    }
  }

  /// In transactions of bounded size: other writers get their turn between them.
  private func inSteps(
    _ ids: [BackupID], _ body: @Sendable @escaping (BackupID, CatalogTransaction) throws -> Void
  ) async throws {
    for batch in ids.batches(of: service.limits.mergeBatch) {
      try await transactions.write { transaction in
        for id in batch { try body(id, transaction) }
      }
    }
  }

  private func note(_ finding: RepositoryFinding, of known: Repository) async throws {
    guard finding.changed(known) != nil else { return }
    try await transactions.write { transaction in try transaction.note(finding, of: known.id) }
  }

  private func tell(_ report: RecoveryReport, of repository: Repository) {
    for path in report.removed {
      service.logger.notice(
        "removed what an interrupted job left", metadata: ["repository": "\(repository.name)", "file": "\(path)"])
    }
    for path in report.quarantined {
      service.logger.warning(
        "moved aside a file without a manifest", metadata: ["repository": "\(repository.name)", "file": "\(path)"])
    }
  }
}
