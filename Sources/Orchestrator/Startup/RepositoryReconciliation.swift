import Foundation
import Logging
import Model

/// Brings the catalog's repositories in line with the declared ones.
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

  func run() async throws {
    var kept: Set<RepositoryID> = []
    for draft in drafts { kept.insert(try await reconcile(draft)) }
    try await retire(allBut: kept)
  }

  private func reconcile(_ draft: RepositoryDraft) async throws -> RepositoryID {
    let known = try service.ledger.read { try $0.repository(named: draft.name) }
    if let known {
      guard known.managedBy == .config else { throw Self.clash(draft, with: known) }
      // Not opened here: a folder whose storage isn't mounted would be made a new repository.
      if comparablePath(known.path) == comparablePath(draft.path) { return known.id }
    }
    let id = try await open(draft)
    return try await service.ledger.write { catalog, now in
      if let known, known.id != id {
        // Another repository took its name over.
        try catalog.delete(known.id)
        try catalog.announce(.repositoryDeleted, known, at: now)
      }
      if var moved = try catalog.repository(id) {
        guard moved.managedBy == .config else { throw Self.clash(draft, with: moved) }
        (moved.name, moved.path) = (draft.name, draft.path)
        try catalog.announce(.repositoryChanged, catalog.update(moved), at: now)
      } else {
        let repository = Repository(
          id: id, name: draft.name, kind: draft.kind, path: draft.path, managedBy: .config, createdAt: now)
        try catalog.insert(repository)
        try catalog.announce(.repositoryCreated, repository, at: now)
      }
      return id
    }
  }

  private func open(_ draft: RepositoryDraft) async throws -> RepositoryID {
    let id = RepositoryID(ULID(at: service.ledger.clock.now()))
    do {
      return try await service.engine.openRepository(at: draft.path, id: id)
    } catch let error as DomainError {
      throw DomainError(
        error.code, "the config declares repository '\(draft.name)', but \(error.detail)", remedy: error.remedy)
    }
  }

  private func retire(allBut kept: Set<RepositoryID>) async throws {
    let logger = service.logger
    try await service.ledger.write { catalog, now in
      for repository in try allPages({ try catalog.repositories($0) })
      where repository.managedBy == .config && !kept.contains(repository.id) {
        try catalog.delete(repository.id)
        try catalog.announce(.repositoryDeleted, repository, at: now)
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
