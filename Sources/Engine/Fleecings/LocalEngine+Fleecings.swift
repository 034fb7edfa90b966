import Bitmaps
import BlockCore
import BlockFilters
import EventLoops
import Failures
import Foundation
import Locks
import Model
import NBD

// How images are fleeced.
//
// F1. Images are held in order of id, as those of a group of backups are, and come to one moment (P1, P2). What can wait or
//     fail comes before the moment, but for the addresses: a view that can't be served ends them all.
// F2. A view is served under a name that carries the fleecing's id, and under no other, until it ends.
// F3. An end first frees the guests: from then on their writes cost nothing, and reads fail. Then clients are cut off, then
//     the images are let go.
// F4. What is recorded from the moment on replaces the tracker's bitmap when its reader has finished with success, and is
//     dropped else (B7): until then the image has the one before, which missed nothing.
extension LocalEngine {
  package var fleecings: Set<FleecingID> { openFleecings.ids }

  package func fleece(_ order: FleecingOrder, control: any JobControl) async throws -> FleecingReceipt {
    calls.begin(control.job)
    defer { calls.end(control.job) }
    try listeners.check(order.tls)
    guard openFleecings.reserve(order.fleecing) else {
      throw DomainError(.internalError, "the fleecing \(order.fleecing) is begun already")
    }
    var fleecing = OpenFleecing(order: order, parts: [])
    do {
      for part in order.parts.sorted(by: { $0.image < $1.image }) {
        try await control.checkpoint()
        fleecing.parts.append(try await hold(part, for: order, control))
      }
      try await control.checkpoint()
      let moment = try await takeMoment(of: &fleecing)
      for index in fleecing.parts.indices { try await serve(&fleecing.parts[index], of: order) }
      openFleecings.put(fleecing)
      logger.info("fleeced", metadata: ["fleecing": "\(order.fleecing)", "at": "\(order.listen.text)"])
      return FleecingReceipt(
        pointInTime: moment,
        parts: Dictionary(uniqueKeysWithValues: fleecing.parts.map { ($0.order.image, $0.receipt) }))
    } catch {
      await letGo(fleecing)
      openFleecings.remove(order.fleecing)
      throw error
    }
  }

  private func hold(
    _ part: FleecingOrder.Part, for order: FleecingOrder, _ control: any JobControl
  ) async throws -> OpenFleecing.Part {
    let (id, location) = (part.image, part.location)
    return try await withSettledImage(id, location.source, in: .folder(of: location.source.place), control) {
      [self] graph, loop in
      let image = try await heldImage(id, location, graph, for: .fleecing(order.fleecing), on: loop, control)
      return try await attempt {
        var held = OpenFleecing.Part(order: part, image: image, loop: loop)
        try await prepare(&held, for: order, control)
        return held
      } orCleanUp: {
        await image.letGo()
      }
    }
  }

  /// All that can wait or fail before the moment.
  nonisolated(nonsending)
    private func prepare(
      _ part: inout OpenFleecing.Part, for order: FleecingOrder, _ control: any JobControl
    ) async throws
  {
    let (image, loop) = (part.image, part.loop)
    if case .attached(let point) = image { try await point.reserveBitmaps(on: loop) }
    if let base = part.order.base { part.changes = try await changes(since: base, in: image, on: loop) }
    let trackers = trackerStore(of: image, on: loop)
    try await telling(about: image.name) {
      try await StoredTracker.requirePlace(for: order.tracker, among: trackers, of: image.name)
    }
    if trackers.countsByIdentity { part.identity = try await settledIdentity(of: image.image, on: loop, control) }
    part.checkpoint = newCheckpoint(of: image.image, part.identity, id: order.checkpoint)
    if case .attached(let point) = image { try await point.prepare(part.checkpoint, fleecing, records, pool: pool) }
  }

  /// What an attached image had at the moment.
  private struct Taken {
    var dirty: DirtyBitmap?
    var isRecorded = false
  }

  /// The moment of all that are held.
  private func takeMoment(of fleecing: inout OpenFleecing) async throws -> Date {
    let order = fleecing.order
    var points: [ObjectIdentifier: (part: OpenFleecing.Part, point: AttachedPoint)] = [:]
    for part in fleecing.parts {
      if case .attached(let point) = part.image { points[ObjectIdentifier(point.graph)] = (part, point) }
    }
    let taken = Lock<[ImageID: Taken]>([:])
    try await GraphBarrier(graphs: points.values.map(\.point.graph)).runPatiently { [weak self, points] graph in
      guard let (part, point) = points[ObjectIdentifier(graph)] else { return }
      var result = Taken(dirty: part.changes?.bits(in: graph.bitmaps))
      let wanted = order.access == .dirty ? result.dirty : nil
      point.take(in: graph, wanted: wanted, onTempFull: .breakBackup) { [weak self] loss in
        self?.deliver(
          FleecingLoss(fleecing: order.fleecing, problem: Self.problem(loss, of: part.order.imageName)))
      }
      if let checkpoint = part.checkpoint {
        result.isRecorded = point.record(checkpoint, of: order.tracker, in: graph)
      }
      taken.withLock { $0[part.order.image] = result }
    }
    let moment = clock.now()
    for (part, point) in points.values { try await onLoop(part.loop) { _ in point.momentHasPassed() } }
    for index in fleecing.parts.indices {
      guard let result = taken.withLock({ $0[fleecing.parts[index].order.image] }) else { continue }
      if let dirty = result.dirty { fleecing.parts[index].changes = .still(dirty) }
      if !result.isRecorded { fleecing.parts[index].checkpoint = nil }
    }
    return moment
  }

  static func problem(_ loss: PointInTimeLoss, of image: ResourceName) -> ProblemDetails {
    ProblemDetails(
      DomainError(
        .pointInTimeLost, "what image '\(image)' held at the moment can't be told any more: \(loss)",
        remedy: "begin another fleecing"))
  }

  private func serve(_ part: inout OpenFleecing.Part, of order: FleecingOrder) async throws {
    var options = NBDExport.Options()
    options.description = "image '\(part.order.imageName)', fleecing \(order.fleecing)"
    options.requiresTLS = order.tls != nil
    options.contexts = [AllocationContext()]
    let (image, loop, dirty) = (part.image, part.loop, part.dirty)
    if let dirty, let name = order.contextName {
      options.contexts.append(DirtyBitmapContext(name: DirtyBitmapContext.prefix + name, bits: .still(dirty)))
    }
    let device = try await onLoop(loop) { _ in
      FleecedDevice(
        image, release: order.release == .trim ? .byDiscard : .byCallsAlone,
        allowed: order.access == .dirty ? dirty : nil)
    }
    let export = NBDExport(name: part.order.exportName, device: device, loop: loop, options: options)
    part.served = (export, try await listeners.publish(export, at: order.listen, tls: order.tls))
  }

  package func release(_ extents: [FleecedExtent], of image: ImageID, in fleecing: FleecingID) async throws {
    guard let part = openFleecings.open(fleecing)?.part(of: image) else {
      throw DomainError(.fleecingEnded, "the fleecing \(fleecing) isn't served")
    }
    try await onLoop(part.loop) { _ in
      part.image.view?.release(extents.map { ByteRange(offset: $0.offset, length: $0.length) })
    }
  }

  package func activity(of fleecing: FleecingID) async -> FleecingActivity? {
    guard let open = openFleecings.open(fleecing) else { return nil }
    var activity = FleecingActivity()
    for part in open.parts {
      guard let figures = part.served?.export.figures else { continue }
      let (kept, most) = (try? await onLoop(part.loop) { _ in Self.kept(part.image) }) ?? (0, 0)
      activity.parts[part.order.image] = FleecingActivity.Part(
        clients: figures.clientCount, reads: ExportActivity.Requests(figures[.read]), keptBytes: kept,
        keptHighWater: most)
    }
    return activity
  }

  private static func kept(_ image: HeldImage) -> (UInt64, UInt64) {
    image.view.map { ($0.keptByteCount, $0.keptHighWaterByteCount) } ?? (0, 0)
  }

  // MARK: Ending

  package func end(_ id: FleecingID) async {
    guard let fleecing = openFleecings.beginLeaving(id) else { return }
    calls.begin(nil)
    defer { calls.end(nil) }
    await letGo(fleecing)
    openFleecings.remove(id)
    logger.info("a fleecing ended", metadata: ["fleecing": "\(id)"])
  }

  package func finish(_ id: FleecingID) async throws {
    guard var fleecing = openFleecings.beginLeaving(id) else {
      throw DomainError(.fleecingEnded, "the fleecing \(id) isn't served")
    }
    calls.begin(nil)
    defer { calls.end(nil) }
    let result: Result<Void, any Error>
    do {
      try await requireKept(fleecing)
      await endViews(&fleecing)
      result = .success(try await settle(fleecing))
    } catch {
      result = .failure(error)
    }
    await letGo(fleecing)
    openFleecings.remove(id)
    try result.get()
  }

  /// Throws `pointInTimeLost`: what was read last may have been of no moment.
  private func requireKept(_ fleecing: OpenFleecing) async throws {
    for part in fleecing.parts {
      guard let loss = try await onLoop(part.loop, { _ in part.image.view?.loss }) else { continue }
      let problem = Self.problem(loss, of: part.order.imageName)
      throw DomainError(problem.code, problem.detail, remedy: problem.remedy)
    }
  }

  /// Sets the checkpoints, in order of id.
  private func settle(_ fleecing: OpenFleecing) async throws {
    for part in fleecing.parts {
      guard let checkpoint = part.checkpoint else { continue }
      try await onLoop(part.loop, in: .folder(of: part.order.location.source.place)) { [self] loop in
        try await settle(checkpoint, of: fleecing.tracked(part), in: part.image, on: loop)
      }
    }
  }

  /// F3, up to the images.
  private func endViews(_ fleecing: inout OpenFleecing) async {
    for part in fleecing.parts {
      guard case .attached(let point) = part.image else { continue }
      await onLoopToEnd(part) { await point.endView() }
    }
    for index in fleecing.parts.indices {
      guard let (export, address) = fleecing.parts[index].served else { continue }
      fleecing.parts[index].served = nil
      // By force nothing is refused.
      try? await export.remove(.hard(grace: Self.removalGrace))
      await listeners.withdraw(export, at: address)
    }
  }

  private func letGo(_ fleecing: OpenFleecing) async {
    var fleecing = fleecing
    await endViews(&fleecing)
    for part in fleecing.parts { await onLoopToEnd(part) { await part.image.letGo() } }
  }

  private func onLoopToEnd(_ part: OpenFleecing.Part, _ body: @Sendable @escaping () async -> Void) async {
    do {
      try await onLoop(part.loop, in: .folder(of: part.order.location.source.place)) { _ in await body() }
    } catch {
      logger.error("letting go of \(part.order.location.source.place)", metadata: ["error": "\(error)"])
    }
  }
}
