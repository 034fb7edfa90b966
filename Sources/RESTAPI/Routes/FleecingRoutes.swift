import HTTPServer
import Model
import Orchestrator

/// Fleecings: views of images at one moment, for programs of others.
struct FleecingRoutes {
  let service: BackupService

  private static let collection = "\(APIPath.root)/fleecings"
  private static let item = "\(collection)/{fleecing}"

  var all: [Route] {
    [
      Route(.post, Self.collection, needs: .fleece, query: [.dryRun], body: .object, .later(create)),
      Route(.get, Self.collection, needs: .read, query: [.state, .limit, .cursor], .later(list)),
      Route(.get, Self.item, needs: .read, .later(get)),
      Route(.delete, Self.item, needs: .fleece, query: [.dryRun], .later(delete)),
      Route(.post, "\(Self.item)/done", needs: .fleece, query: [.dryRun], body: .object, .later(release)),
      Route(.post, "\(Self.item)/renew", needs: .fleece, query: [.dryRun], body: .optionalObject, .later(renew)),
      Route(.post, "\(Self.item)/finish", needs: .fleece, query: [.dryRun], body: .object, .later(finish)),
    ]
  }

  @Sendable private func create(_ call: Call) async throws -> HTTPResponse {
    let draft = try call.fields().fleecingDraft(imageLimit: service.limits.imagesPerBackup)
    return try await call.change(render: StoredAnswer.accepted, { try await service.createFleecing(draft, $0) })
  }

  @Sendable private func list(_ call: Call) async throws -> HTTPResponse {
    let filter = FleecingFilter(states: try call.query.choices(.state))
    let page = try await service.fleecings(filter, try call.query.page()).map { FleecingDocument($0) }
    let tag = EntityTag.of(JSONWriter.text(of: PageDocument(page.map(\.withoutFigures))), revision: nil)
    return try JSONAnswer.ok(PageDocument(page), tag: tag, to: call)
  }

  @Sendable private func get(_ call: Call) async throws -> HTTPResponse {
    let document = FleecingDocument(try await service.fleecing(try call.fleecing()))
    return try JSONAnswer.ok(document, tag: document.tag, to: call)
  }

  @Sendable private func delete(_ call: Call) async throws -> HTTPResponse {
    let id = try call.fleecing()
    return try await call.change(
      at: { try service.fleecingRevision(id) }, render: { _ in .noContent },
      { try await service.deleteFleecing(id, $0) })
  }

  @Sendable private func release(_ call: Call) async throws -> HTTPResponse {
    let id = try call.fleecing()
    let (image, extents) = try call.fields().releasedExtents()
    return try await call.change(
      at: { try service.fleecingRevision(id) }, render: { _ in .noContent },
      { try await service.releaseFleeced(extents, of: image, in: id, $0) })
  }

  @Sendable private func renew(_ call: Call) async throws -> HTTPResponse {
    let id = try call.fleecing()
    let lifetime = try call.fields().renewal()
    return try await call.change(
      at: { try service.fleecingRevision(id) },
      render: { view in
        let document = FleecingDocument(view)
        return StoredAnswer(200, document, tag: document.tag, revision: view.fleecing.revision)
      },
      { try await service.renewFleecing(id, lifetime: lifetime, $0) })
  }

  @Sendable private func finish(_ call: Call) async throws -> HTTPResponse {
    let id = try call.fleecing()
    let (outcome, label) = try call.fields().fleecingOutcome()
    return try await call.change(
      at: { try service.fleecingRevision(id) }, render: StoredAnswer.accepted,
      { try await service.finishFleecing(id, outcome, label: label, $0) })
  }
}

extension Call {
  fileprivate func fleecing() throws(DomainError) -> FleecingID { try id(of: "fleecing") }
}
