import HTTPServer
import Model
import Orchestrator

/// Repositories: creating, reading, renaming, reading anew.
struct RepositoryRoutes {
  let service: BackupService

  private static let collection = "\(APIPath.root)/repositories"
  private static let item = "\(collection)/{repository}"

  var all: [Route] {
    [
      Route(.post, Self.collection, needs: .configure, query: [.dryRun], body: .object, .later(create)),
      Route(.get, Self.collection, needs: .read, query: [.limit, .cursor], .now(list)),
      Route(.get, Self.item, needs: .read, .now(get)),
      Route(.patch, Self.item, needs: .configure, query: [.dryRun], body: .mergePatch, .later(change)),
      Route(.delete, Self.item, needs: .configure, query: [.dryRun], .later(unregister)),
      Route(.post, "\(Self.item)/rescan", needs: .configure, query: [.dryRun], body: .optionalObject, .later(rescan)),
    ]
  }

  @Sendable private func create(_ call: Call) async throws -> HTTPResponse {
    let draft = try call.fields().repositoryDraft()
    return try await call.change(
      render: { repository in
        StoredAnswer(
          201, RepositoryDocument(repository), revision: repository.revision,
          location: APIPath.repository(repository.id))
      },
      { try await service.createRepository(draft, $0) })
  }

  @Sendable private func list(_ call: Call) throws -> HTTPResponse {
    let page = try service.repositories(try call.query.page())
    return try JSONAnswer.ok(PageDocument(page.map(RepositoryDocument.init)), to: call)
  }

  @Sendable private func get(_ call: Call) throws -> HTTPResponse {
    let repository = try service.repository(try call.repository())
    return try JSONAnswer.ok(RepositoryDocument(repository), revision: repository.revision, to: call)
  }

  @Sendable private func change(_ call: Call) async throws -> HTTPResponse {
    let reference = try call.repository()
    let name = try call.fields().repositoryName() ?? service.repository(reference).name
    return try await call.change(
      at: { try service.repository(reference).revision },
      render: { StoredAnswer(200, RepositoryDocument($0), revision: $0.revision) },
      { try await service.renameRepository(reference, to: name, $0) })
  }

  @Sendable private func unregister(_ call: Call) async throws -> HTTPResponse {
    let reference = try call.repository()
    return try await call.change(
      at: { try service.repository(reference).revision }, render: { _ in .noContent },
      { try await service.unregisterRepository(reference, $0) })
  }

  @Sendable private func rescan(_ call: Call) async throws -> HTTPResponse {
    let reference = try call.repository()
    try call.fields().nothing()
    return try await call.change(
      at: { try service.repository(reference).revision }, render: StoredAnswer.accepted,
      { try await service.rescanRepository(reference, $0) })
  }
}

extension Call {
  fileprivate func repository() throws(DomainError) -> Reference<Repository> { try reference(to: "repository") }
}
