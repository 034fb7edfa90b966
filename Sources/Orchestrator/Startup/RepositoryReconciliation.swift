import Foundation
import Logging
import Model

/// Brings the catalog's repositories in line with the declared ones: first by the rows alone, then by the folders of
/// those that the rows don't tell, which may take as long as their storage.
///
///     declared, and in the catalog by name and path      kept
///     declared, and in the catalog by the folder's id    renamed or moved there, if the config declared it
///     declared, and not in the catalog                   made, or taken over with the id in its folder
///     in the catalog by an earlier config only           retired: its row goes, its folder stays
///     declared, but made over REST                       refused
struct RepositoryReconciliation {
  private let service: BackupService
  private let drafts: [RepositoryDraft]

  init(_ service: BackupService, _ drafts: [RepositoryDraft]) {
    self.service = service
    self.drafts = drafts
  }

  /// What the rows alone tell: no folder is opened.
  struct Known: Sendable {
    var kept: Set<RepositoryID> = []
    /// Those whose id stands in their folder only.
    var newcomers: [RepositoryDraft] = []
  }

  /// Keeps the rows that are declared as they are. Rows that no declaration means are retired, unless a newcomer may
  /// turn out to be one of them: then ``settle(_:)`` does that.
  func keepKnown() async throws -> Known {
    var known = Known()
    for draft in drafts {
      // A folder whose storage isn't mounted would be made a new repository if it were opened.
      if let row = try row(of: draft), comparablePath(row.path) == comparablePath(draft.path) {
        known.kept.insert(row.id)
      } else {
        known.newcomers.append(draft)
      }
    }
    if known.newcomers.isEmpty { try await retire(allBut: known.kept) }
    return known
  }

  /// Opens the newcomers' folders, and brings the rows in line with what they hold. Returns their ids.
  func settle(_ known: Known) async throws -> [RepositoryID] {
    var ids: [RepositoryID] = []
    for draft in known.newcomers { ids.append(try await reconcile(draft)) }
    if !ids.isEmpty { try await retire(allBut: known.kept.union(ids)) }
    return ids
  }

  private func row(of draft: RepositoryDraft) throws -> Repository? {
    let row = try service.transactions.read { try $0.repository(named: draft.name) }
    if let row, row.managedBy != .config { throw Self.clash(draft, with: row) }
    return row
  }

  private func reconcile(_ draft: RepositoryDraft) async throws -> RepositoryID {
    let known = try row(of: draft)
    let id = try await open(draft)
    // Its jobs wait until it has been cleaned up.
    await service.queue.awaitLooks(at: [.repository(id)])
    return try await service.transactions.write { transaction in
      if let known, known.id != id {
        // Another repository took its name over.
        try transaction.delete(known)
      }
      if var moved = try transaction.catalog.repository(id) {
        guard moved.managedBy == .config else { throw Self.clash(draft, with: moved) }
        (moved.name, moved.path) = (draft.name, draft.path)
        try transaction.update(moved)
      } else {
        let repository = Repository(
          id: id, name: draft.name, kind: draft.kind, path: draft.path, managedBy: .config, createdAt: transaction.now)
        try transaction.insert(repository)
      }
      return id
    }
  }

  private func open(_ draft: RepositoryDraft) async throws -> RepositoryID {
    let id = RepositoryID(ULID(at: service.transactions.time.now()))
    do {
      return try await service.engine.openRepository(at: draft.path, id: id)
    } catch let error as DomainError {
      throw DomainError(
        error.code, "the config declares repository '\(draft.name)', but \(error.detail)", remedy: error.remedy)
    }
  }

  private func retire(allBut kept: Set<RepositoryID>) async throws {
    let logger = service.logger
    try await service.transactions.write { transaction in
      for repository in try allPages({ try transaction.catalog.repositories($0) })
      where repository.managedBy == .config && !kept.contains(repository.id) {
        try transaction.delete(repository)
        logger.notice(
          "a repository is no longer declared: it is unregistered, its folder stays as it is",
          metadata: ["repository": "\(repository.name)", "path": "\(repository.path)"])
      }
    }
  }

  private static func clash(_ draft: RepositoryDraft, with other: Repository) -> DomainError {
    DomainError(
      .nameTaken,
      "the config declares repository '\(draft.name)' at \(draft.path), but repository '\(other.name)' at "
        + "\(other.path) was made over REST",
      remedy: "rename or unregister that one, or take the declaration out of the config")
  }
}
