import HTTPServer
import Model
import Orchestrator

/// Images: registering, reading, changing, looking into, attaching, checking.
struct ImageRoutes {
  let service: BackupService

  private static let collection = "\(APIPath.root)/images"
  private static let item = "\(collection)/{image}"

  var all: [Route] {
    [
      Route(.post, Self.collection, needs: .configure, query: [.dryRun], body: .object, .later(register)),
      Route(.get, Self.collection, needs: .read, query: [.limit, .cursor], .now(list)),
      Route(.get, Self.item, needs: .read, .now(get)),
      Route(.patch, Self.item, needs: .configure, query: [.dryRun], body: .mergePatch, .later(change)),
      Route(.delete, Self.item, needs: .configure, query: [.dryRun], .later(unregister)),
      Route(.get, "\(Self.item)/inspect", needs: .read, .later(inspect)),
      Route(
        .get, "\(Self.item)/extents", needs: .read, query: [.context, .bitmap, .offset, .length, .limit, .generation],
        .later(extents)),
      Route(.get, "\(Self.item)/checkpoints", needs: .read, query: [.limit, .cursor], .now(checkpoints)),
      Route(.get, "\(Self.item)/trackers", needs: .read, .later(trackers)),
      Route(.delete, "\(Self.item)/trackers/{tracker}", needs: .configure, query: [.dryRun], .later(deleteTracker)),
      Route(.post, "\(Self.item)/attach", needs: .export, query: [.dryRun], body: .optionalObject, .later(attach)),
      Route(.post, "\(Self.item)/detach", needs: .export, query: [.dryRun], body: .optionalObject, .later(detach)),
      Route(.post, "\(Self.item)/check", needs: .verify, query: [.dryRun], body: .optionalObject, .later(check)),
      Route(
        .post, "\(Self.item)/clear-damage", needs: .configure, query: [.dryRun], body: .optionalObject,
        .later(clearDamage)),
      Route(
        .post, "\(Self.item)/reconcile", needs: .configure, query: [.dryRun], body: .optionalObject, .later(reconcile)),
    ]
  }

  @Sendable private func register(_ call: Call) async throws -> HTTPResponse {
    let draft = try call.fields().imageDraft()
    return try await call.change(
      render: { image in
        StoredAnswer(201, ImageDocument(image), revision: image.revision, location: APIPath.image(image.id))
      },
      { conditions in
        do {
          return try await service.registerImage(draft, conditions)
        } catch let error as DomainError {
          throw error.about(.sourceURI)
        }
      })
  }

  @Sendable private func list(_ call: Call) throws -> HTTPResponse {
    let page = try service.images(try call.query.page())
    return try JSONAnswer.ok(PageDocument(page.map(ImageDocument.init)), to: call)
  }

  @Sendable private func get(_ call: Call) throws -> HTTPResponse {
    let image = try service.image(try call.image())
    return try JSONAnswer.ok(ImageDocument(image), revision: image.revision, to: call)
  }

  @Sendable private func change(_ call: Call) async throws -> HTTPResponse {
    let reference = try call.image()
    let change = try call.fields().imageChange()
    return try await call.change(
      at: { try service.image(reference).revision },
      render: { StoredAnswer(200, ImageDocument($0), revision: $0.revision) },
      { try await service.changeImage(reference, change, $0) })
  }

  @Sendable private func unregister(_ call: Call) async throws -> HTTPResponse {
    let reference = try call.image()
    return try await call.change(
      at: { try service.image(reference).revision },
      render: { $0.removal.failure == nil ? .noContent : StoredAnswer(200, TrackingLeftDocument(unregistered: $0)) },
      { try await service.unregisterImage(reference, $0) })
  }

  @Sendable private func clearDamage(_ call: Call) async throws -> HTTPResponse {
    let reference = try call.image()
    let confirm = try call.fields().confirmation()
    return try await call.change(
      at: { try service.image(reference).revision },
      render: { StoredAnswer(200, ImageDocument($0), revision: $0.revision) },
      { try await service.clearDamage(of: reference, confirm: confirm, $0) })
  }

  @Sendable private func inspect(_ call: Call) async throws -> HTTPResponse {
    let inspection = try await service.inspectImage(try call.image())
    return try JSONAnswer.ok(InspectionDocument(inspection: inspection), to: call)
  }

  @Sendable private func extents(_ call: Call) async throws -> HTTPResponse {
    let reference = try call.image()
    if try call.query.dirtyContext() { return try await dirtyExtents(call, of: reference) }
    let page = try await service.extents(
      ofImage: reference, offset: try call.query.bytes(.offset, from: 0) ?? 0,
      length: try call.query.bytes(.length, from: 1),
      limit: try call.query.integer(.limit, in: QueryValues.limits) ?? QueryValues.limits.upperBound,
      generation: call.query.text(.generation))
    return try JSONAnswer.ok(ExtentPageDocument(page: page), to: call)
  }

  @Sendable private func checkpoints(_ call: Call) throws -> HTTPResponse {
    let page = try service.checkpoints(of: try call.image(), try call.query.page())
    return try JSONAnswer.ok(PageDocument(page.map(CheckpointDocument.init)), to: call)
  }

  private func dirtyExtents(_ call: Call, of image: Reference<Image>) async throws -> HTTPResponse {
    let page = try await service.dirtyExtents(
      of: try call.query.bitmapName(), of: image, try call.query.storedExtents(),
      generation: call.query.text(.generation))
    return try JSONAnswer.ok(DirtyExtentPageDocument(page: page), to: call)
  }

  @Sendable private func trackers(_ call: Call) async throws -> HTTPResponse {
    try JSONAnswer.ok(TrackerListDocument(items: try await service.trackers(of: try call.image())), to: call)
  }

  @Sendable private func deleteTracker(_ call: Call) async throws -> HTTPResponse {
    let reference = try call.image()
    let name = call.match.parameters[1]
    return try await call.change(
      render: { _ in .noContent }, { try await service.deleteTracker(name, of: reference, $0) })
  }

  // MARK: Jobs

  @Sendable private func attach(_ call: Call) async throws -> HTTPResponse {
    let reference = try call.image()
    let (cache, confirm) = try call.fields().attachment()
    return try await call.change(
      at: { try service.image(reference).revision }, render: StoredAnswer.accepted,
      { try await service.attachImage(reference, cache: cache, confirm: confirm, $0) })
  }

  @Sendable private func detach(_ call: Call) async throws -> HTTPResponse {
    let reference = try call.image()
    try call.fields().nothing()
    return try await call.change(
      at: { try service.image(reference).revision }, render: StoredAnswer.accepted,
      { try await service.detachImage(reference, $0) })
  }

  @Sendable private func check(_ call: Call) async throws -> HTTPResponse {
    let reference = try call.image()
    let repairs = try call.fields().repairsLeaks()
    return try await call.change(
      at: { try service.image(reference).revision }, render: StoredAnswer.accepted,
      { try await service.checkImage(reference, repairsLeaks: repairs, $0) })
  }

  @Sendable private func reconcile(_ call: Call) async throws -> HTTPResponse {
    let reference = try call.image()
    let confirm = try call.fields().confirmation()
    return try await call.change(
      at: { try service.image(reference).revision }, render: StoredAnswer.accepted,
      { try await service.reconcileImage(reference, confirm: confirm, $0) })
  }
}

extension Call {
  fileprivate func image() throws(DomainError) -> Reference<Image> { try reference(to: "image") }
}

/// What extents can be of.
private enum ExtentContext: String, CaseIterable {
  case allocation, dirty
}

extension QueryValues {
  /// Whether the extents are of a bitmap, which `bitmap` names then and only then.
  fileprivate func dirtyContext() throws(DomainError) -> Bool {
    let isDirty = try choice(.context, of: ExtentContext.self) == .dirty
    guard isDirty == (bytes(.bitmap) != nil) else {
      throw refusal(.bitmap, isDirty ? "must name the bitmap" : "goes with context=dirty only")
    }
    return isDirty
  }

  fileprivate func bitmapName() throws(DomainError) -> BitmapName { BitmapName(bytes(.bitmap) ?? []) }
}
