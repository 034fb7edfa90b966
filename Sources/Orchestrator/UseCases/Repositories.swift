import Foundation
import Model

/// A repository to be registered: a new folder, an empty one, or one that is a repository already.
package struct RepositoryDraft: Hashable, Sendable {
  package var name: ResourceName
  package var kind: Repository.Kind
  package var path: String

  package init(name: ResourceName, kind: Repository.Kind = .directory, path: String) {
    self.name = name
    self.kind = kind
    self.path = path
  }
}

extension BackupService {
  package func repository(_ reference: Reference<Repository>) throws -> Repository {
    try transactions.read { try $0.find(reference) }
  }

  package func repositories(_ page: PageRequest) throws -> Page<Repository> {
    try transactions.read { try $0.repositories(page) }
  }

  /// Makes the folder a repository, or takes over the one that it is, with its id; a rescan then finds its backups.
  /// Throws `nameTaken` if the name, the folder or the repository in it is registered already.
  package func createRepository(
    _ draft: RepositoryDraft, _ conditions: ChangeConditions<Repository> = ChangeConditions()
  ) async throws -> Answer<Repository> {
    try await answering(conditions) {
      // Before the folder is touched, and again with the row.
      try transactions.read { try $0.requireFree(draft) }
      let new = RepositoryID(ULID(at: transactions.time.now()))
      let id = conditions.dryRun ? new : try await engine.openRepository(at: draft.path, id: new)
      return try await change(conditions) { _ in
        Plan(
          action: "create-repository",
          steps: ["make \(draft.path) a repository, or take over the one in it, as '\(draft.name)'"],
          warnings: ["the folder is only looked at when it is done"],
          resource: .repository(draft))
      } apply: { transaction in
        try transaction.catalog.requireFree(draft)
        if let other = try transaction.catalog.repository(id) {
          throw DomainError(
            .nameTaken, "\(draft.path) holds the repository that is registered as '\(other.name)'",
            remedy: "use that one, or unregister it first")
        }
        let repository = Repository(
          id: id, name: draft.name, kind: draft.kind, path: draft.path, createdAt: transaction.now)
        try transaction.insert(repository)
        return repository
      }
    }
  }

  /// Throws `managedByConfig`, `nameTaken`, `preconditionFailed`.
  package func renameRepository(
    _ reference: Reference<Repository>, to name: ResourceName,
    _ conditions: ChangeConditions<Repository> = ChangeConditions()
  ) async throws -> Answer<Repository> {
    let renamed: @Sendable (any CatalogReading) throws -> Repository = { catalog in
      var repository = try catalog.find(reference)
      try conditions.require(revision: repository.revision, of: "repository '\(repository.name)'")
      try repository.managedBy.requireChangeable("repository '\(repository.name)'")
      if let other = try catalog.repository(named: name), other.id != repository.id {
        throw DomainError(
          .nameTaken, "repository \(other.id) has the name '\(name)' already", remedy: "choose another name")
      }
      repository.name = name
      return repository
    }
    return try await answering(conditions) {
      try await change(conditions) { view in
        let repository = try renamed(view.catalog)
        return Plan(
          action: "change-repository", steps: ["rename repository \(repository.id) to '\(name)'"],
          resource: .repositoryName(name, path: repository.path))
      } apply: { transaction in
        let repository = try renamed(transaction.catalog)
        guard try transaction.catalog.repository(repository.id) != repository else { return repository }
        let stored = try transaction.update(repository)
        return stored
      }
    }
  }

  /// Forgets the repository and its backups; its folder keeps them all. Throws `repositoryInUse` while a job uses it,
  /// `exportInUse` while one of its backups is exported, or compared with one that is.
  package func unregisterRepository(
    _ reference: Reference<Repository>, _ conditions: ChangeConditions<Repository> = ChangeConditions()
  ) async throws -> Answer<Repository> {
    let doomed: @Sendable (any CatalogReading) throws -> Repository = { catalog in
      let repository = try catalog.find(reference)
      try conditions.require(revision: repository.revision, of: "repository '\(repository.name)'")
      try repository.managedBy.requireChangeable("repository '\(repository.name)'")
      for job in try catalog.liveJobs() where try job.request.work.repository(in: catalog) == repository.id {
        throw DomainError(
          .repositoryInUse, "the \(job.request.kind.rawValue) job \(job.id) uses repository '\(repository.name)'",
          remedy: "wait for it, or cancel it")
      }
      for export in try allPages({ try catalog.exports(ExportFilter(), $0) }) {
        let needed = try export.backups.first { try catalog.backup($0)?.repository == repository.id }
        guard let needed else { continue }
        throw DomainError(
          .exportInUse, "export '\(export.name)' needs backup \(needed) in repository '\(repository.name)'",
          remedy: "delete the export first")
      }
      return repository
    }
    return try await answering(conditions) {
      try await change(conditions) { view in
        let repository = try doomed(view.catalog)
        return Plan(
          action: "unregister-repository",
          steps: ["forget repository '\(repository.name)' and its backups; \(repository.path) keeps them all"],
          resource: .repositoryName(repository.name, path: repository.path))
      } apply: { transaction in
        let repository = try doomed(transaction.catalog)
        try transaction.delete(repository)
        return repository
      }
    }
  }

  /// A job that finds what the repository holds, and brings the catalog in line with it.
  package func rescanRepository(
    _ reference: Reference<Repository>, _ conditions: ChangeConditions<Job> = ChangeConditions()
  ) async throws -> Answer<Job> {
    try await submit(conditions) { view in
      let repository = try view.catalog.find(reference)
      try conditions.require(revision: repository.revision, of: "repository '\(repository.name)'")
      return JobDraft(
        request: .rescan(repository: repository.id), links: JobLinks(repository: repository.id),
        plan: Plan(
          action: "rescan-repository",
          steps: ["read the manifests in \(repository.path) and add what the catalog lacks"],
          resource: .rescan(of: repository.id)))
    }
  }
}
