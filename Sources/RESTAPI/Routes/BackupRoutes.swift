import HTTPServer
import Model
import Orchestrator

/// Backups, their chains and their groups: taking, reading, verifying, restoring, deleting.
struct BackupRoutes {
  let service: BackupService

  private static let collection = "\(APIPath.root)/backups"
  private static let item = "\(collection)/{backup}"
  private static let group = "\(APIPath.root)/groups/{group}"
  private static let chain = "\(APIPath.root)/chains/{chain}"

  var all: [Route] {
    [
      Route(.post, Self.collection, needs: .backup, query: [.dryRun], body: .object, .later(create)),
      Route(
        .get, Self.collection, needs: .read, query: [.image, .repository, .chain, .state, .limit, .cursor], .now(list)),
      Route(.get, Self.item, needs: .read, .now(get)),
      Route(.delete, Self.item, needs: .delete, query: [.dryRun], .later(delete)),
      Route(.post, "\(Self.item)/verify", needs: .verify, query: [.dryRun], body: .optionalObject, .later(verify)),
      Route(.post, "\(Self.item)/restore", needs: .restore, query: [.dryRun], body: .object, .later(restore)),
      Route(
        .get, "\(Self.item)/extents", needs: .read, query: [.offset, .length, .limit], .later(extents)),
      Route(
        .get, "\(Self.item)/diff/{other}", needs: .read, query: [.offset, .length, .limit], .later(differences)),
      Route(
        .get, "\(APIPath.root)/chains", needs: .read, query: [.image, .repository, .limit, .cursor], .now(listChains)),
      Route(.get, Self.chain, needs: .read, .now(getChain)),
      Route(
        .post, "\(Self.chain)/verify", needs: .verify, query: [.dryRun], body: .optionalObject, .later(verifyChain)),
      Route(.get, Self.group, needs: .read, .now(getGroup)),
      Route(.post, "\(Self.group)/restore", needs: .restore, query: [.dryRun], body: .object, .later(restoreGroup)),
    ]
  }

  @Sendable private func create(_ call: Call) async throws -> HTTPResponse {
    let draft = try call.fields().backupDraft(imageLimit: service.limits.imagesPerBackup)
    return try await call.change(
      render: StoredAnswer.accepted, { try await service.createBackup(draft, $0) })
  }

  @Sendable private func list(_ call: Call) throws -> HTTPResponse {
    let query = BackupQuery(
      image: try call.query.reference(.image), repository: try call.query.reference(.repository),
      chain: try call.query.id(.chain), state: try call.query.choice(.state))
    let page = try service.backups(query, try call.query.page())
    return try JSONAnswer.ok(PageDocument(page.map(BackupDocument.init)), to: call)
  }

  @Sendable private func get(_ call: Call) throws -> HTTPResponse {
    let view = try service.backup(try call.backup())
    return try JSONAnswer.ok(BackupDocument(view), revision: view.backup.revision, to: call)
  }

  @Sendable private func delete(_ call: Call) async throws -> HTTPResponse {
    let id = try call.backup()
    return try await call.change(
      at: { try service.backup(id).backup.revision }, render: StoredAnswer.accepted,
      { try await service.deleteBackup(id, $0) })
  }

  @Sendable private func verify(_ call: Call) async throws -> HTTPResponse {
    let id = try call.backup()
    let level = try call.fields().verifyLevel()
    return try await call.change(
      at: { try service.backup(id).backup.revision }, render: StoredAnswer.accepted,
      { try await service.verifyBackup(id, level: level, $0) })
  }

  @Sendable private func restore(_ call: Call) async throws -> HTTPResponse {
    let id = try call.backup()
    let target = try call.fields().restoreDraft()
    return try await call.change(
      at: { try service.backup(id).backup.revision }, render: StoredAnswer.accepted,
      { conditions in
        do {
          return try await service.restoreBackup(id, to: target, conditions)
        } catch let error as DomainError {
          throw error.about(.targetURI)
        }
      })
  }

  @Sendable private func listChains(_ call: Call) throws -> HTTPResponse {
    let page = try service.chains(
      image: try call.query.reference(.image), repository: try call.query.reference(.repository),
      try call.query.page())
    return try JSONAnswer.ok(PageDocument(page.map(ChainDocument.init)), to: call)
  }

  @Sendable private func getChain(_ call: Call) throws -> HTTPResponse {
    try JSONAnswer.ok(ChainDetailDocument(try service.chain(try call.id(of: "chain"))), to: call)
  }

  @Sendable private func verifyChain(_ call: Call) async throws -> HTTPResponse {
    let id: ChainID = try call.id(of: "chain")
    let level = try call.fields().verifyLevel()
    return try await call.change(render: StoredAnswer.accepted, { try await service.verifyChain(id, level: level, $0) })
  }

  @Sendable private func extents(_ call: Call) async throws -> HTTPResponse {
    let page = try await service.extents(ofBackup: try call.backup(), try call.query.storedExtents())
    return try JSONAnswer.ok(ExtentPageDocument(page: page), to: call)
  }

  @Sendable private func differences(_ call: Call) async throws -> HTTPResponse {
    let other = try call.id(of: "backup", Backup.self, at: 1)
    let page = try await service.differences(try call.backup(), from: other, try call.query.storedExtents())
    return try JSONAnswer.ok(DifferencePageDocument(page: page), to: call)
  }

  @Sendable private func restoreGroup(_ call: Call) async throws -> HTTPResponse {
    let id = try call.id(of: "group", GroupView.self).ulid
    let draft = try call.fields().groupRestoreDraft(imageLimit: service.limits.imagesPerBackup)
    return try await call.change(render: StoredAnswer.accepted, { try await service.restoreGroup(id, draft, $0) })
  }

  @Sendable private func getGroup(_ call: Call) throws -> HTTPResponse {
    let view = try service.group(try call.id(of: "group", GroupView.self).ulid)
    return try JSONAnswer.ok(GroupDocument(view), to: call)
  }
}

extension Call {
  fileprivate func backup() throws(DomainError) -> BackupID { try id(of: "backup") }
}

extension QueryValues {
  /// Offset, length and limit of a page of extents.
  func storedExtents() throws(DomainError) -> StoredExtentQuery {
    StoredExtentQuery(
      offset: try bytes(.offset, from: 0) ?? 0, length: try bytes(.length, from: 1),
      limit: try integer(.limit, in: Self.limits) ?? Self.limits.upperBound)
  }
}
