import HTTPServer
import Model
import Orchestrator

/// The dirty bitmaps of images: making, reading, changing, one by one or several at one moment; and their bits, which are
/// no JSON.
struct BitmapRoutes {
  let service: BackupService

  private static let collection = "\(APIPath.root)/images/{image}/bitmaps"
  private static let item = "\(collection)/{bitmap}"

  var all: [Route] {
    [
      Route(.post, Self.collection, needs: .backup, query: [.dryRun], body: .object, .later(create)),
      Route(.get, Self.collection, needs: .read, query: [.limit, .cursor], .later(list)),
      Route(.get, Self.item, needs: .read, .later(get)),
      Route(.delete, Self.item, needs: .backup, query: [.dryRun], .later(delete)),
      change("clear", .clear), change("enable", .enable), change("disable", .disable),
      Route(.get, "\(Self.item)/bits", needs: .read, .transfer(getBits)),
      Route(
        .put, "\(Self.item)/bits", needs: .backup, query: [.dryRun, .generation], body: .bits, .transfer(putBits)),
      Route(.post, "\(Self.item)/merge", needs: .backup, query: [.dryRun], body: .object, .later(merge)),
      Route(
        .post, "\(APIPath.root)/bitmap-transactions", needs: .backup, query: [.dryRun], body: .object, .later(transact)),
    ]
  }

  private func change(_ verb: String, _ change: BitmapDraft.Change) -> Route {
    Route(
      .post, "\(Self.item)/\(verb)", needs: .backup, query: [.dryRun], body: .optionalObject,
      .later { call in
        try call.fields().nothing()
        return try await perform(change, call)
      })
  }

  @Sendable private func create(_ call: Call) async throws -> HTTPResponse {
    let image = try call.image()
    let (name, addition) = try call.fields().bitmapAddition()
    return try await call.change(
      render: { changed in
        StoredAnswer(
          201, ChangedBitmapDocument(changed), location: APIPath.bitmap(changed.name, of: changed.image))
      },
      { try await service.changeBitmap(BitmapDraft(image: image, bitmap: name, addition), $0) })
  }

  @Sendable private func list(_ call: Call) async throws -> HTTPResponse {
    let page = try await service.bitmaps(of: try call.image(), try call.query.page())
    return try JSONAnswer.ok(PageDocument(page.map(BitmapDocument.init)), to: call)
  }

  @Sendable private func get(_ call: Call) async throws -> HTTPResponse {
    let record = try await service.bitmap(try call.bitmap(), of: try call.image())
    return try JSONAnswer.ok(BitmapDocument(record), to: call)
  }

  @Sendable private func delete(_ call: Call) async throws -> HTTPResponse {
    let (image, name) = (try call.image(), try call.bitmap())
    return try await call.change(
      render: { _ in .noContent },
      { try await service.changeBitmap(BitmapDraft(image: image, bitmap: name, .remove), $0) })
  }

  @Sendable private func getBits(_ call: Call) async throws -> HTTPResponse {
    try BitsAnswer.ok(try await service.bits(of: try call.bitmap(), of: try call.image()), to: call)
  }

  @Sendable private func putBits(_ call: Call) async throws -> HTTPResponse {
    let draft = BitmapDraft(
      image: try call.image(), bitmap: try call.bitmap(), .unite(try BitsAnswer.sent(by: call)))
    return try await call.change(
      isMatched: true, render: { BitsAnswer.changed(ChangedBitmapDocument($0)) },
      { try await service.changeBitmap(draft, $0) })
  }

  @Sendable private func merge(_ call: Call) async throws -> HTTPResponse {
    try await perform(.merge(try call.fields().bitmapSources()), call)
  }

  private func perform(_ change: BitmapDraft.Change, _ call: Call) async throws -> HTTPResponse {
    let (image, name) = (try call.image(), try call.bitmap())
    return try await call.change(
      render: { StoredAnswer(200, ChangedBitmapDocument($0)) },
      { try await service.changeBitmap(BitmapDraft(image: image, bitmap: name, change), $0) })
  }

  @Sendable private func transact(_ call: Call) async throws -> HTTPResponse {
    let drafts = try call.fields().bitmapTransaction()
    return try await call.change(
      render: { StoredAnswer(200, BitmapTransactionDocument(results: $0)) },
      { try await service.changeBitmaps(drafts, $0) })
  }
}

extension Call {
  fileprivate func image() throws(DomainError) -> Reference<Image> { try reference(to: "image") }
  fileprivate func bitmap() throws(DomainError) -> BitmapName { BitmapName(match.bytes[1]) }
}
