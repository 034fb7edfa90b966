import HTTPServer
import Model
import Orchestrator

/// Exports: making, reading, taking away.
struct ExportRoutes {
  let service: BackupService

  private static let collection = "\(APIPath.root)/exports"
  private static let item = "\(collection)/{export}"

  var all: [Route] {
    [
      Route(.post, Self.collection, needs: .export, query: [.dryRun], body: .object, .later(create)),
      Route(.get, Self.collection, needs: .read, query: [.image, .backup, .limit, .cursor], .now(list)),
      Route(.get, Self.item, needs: .read, .now(get)),
      Route(.patch, Self.item, needs: .export, query: [.dryRun], body: .mergePatch, .later(change)),
      Route(.delete, Self.item, needs: .export, query: [.mode, .dryRun], .later(delete)),
    ]
  }

  @Sendable private func create(_ call: Call) async throws -> HTTPResponse {
    let draft = try call.fields().exportDraft()
    return try await call.change(
      render: { view in
        let document = ExportDocument(view)
        return StoredAnswer(
          201, document, tag: document.tag, revision: view.export.revision, location: APIPath.export(view.export.id))
      },
      { try await service.createExport(draft, $0) })
  }

  @Sendable private func list(_ call: Call) throws -> HTTPResponse {
    let query = ExportQuery(image: try call.query.reference(.image), backup: try call.query.id(.backup))
    let page = try service.exports(query, try call.query.page()).map { ExportDocument($0) }
    let tag = EntityTag.of(JSONWriter.text(of: PageDocument(page.map(\.withoutFigures))), revision: nil)
    return try JSONAnswer.ok(PageDocument(page), tag: tag, to: call)
  }

  @Sendable private func get(_ call: Call) throws -> HTTPResponse {
    let document = ExportDocument(try service.export(try call.export()))
    return try JSONAnswer.ok(document, tag: document.tag, to: call)
  }

  @Sendable private func change(_ call: Call) async throws -> HTTPResponse {
    let reference = try call.export()
    let change = try call.fields().exportChange()
    return try await call.change(
      at: { try service.export(reference).export.revision },
      render: { view in
        let document = ExportDocument(view)
        return StoredAnswer(200, document, tag: document.tag, revision: view.export.revision)
      },
      { try await service.changeExport(reference, change, $0) })
  }

  @Sendable private func delete(_ call: Call) async throws -> HTTPResponse {
    let reference = try call.export()
    let removal = try call.query.choice(.mode, of: ExportRemoval.self) ?? .safe
    return try await call.change(
      at: { try service.export(reference).export.revision }, render: { _ in .noContent },
      { try await service.deleteExport(reference, removal, $0) })
  }
}

extension Call {
  fileprivate func export() throws(DomainError) -> Reference<Export> { try reference(to: "export") }
}
