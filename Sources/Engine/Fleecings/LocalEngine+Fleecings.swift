import BlockCore
import BlockFilters
import EventLoops
import Failures
import Foundation
import Model
import NBD

// How images are fleeced.
//
// F1. Images are held in order of id, as those of a group of backups are, and come to one moment (P1, P2). What can wait or
//     fail comes before the moment, but for the addresses: a view that can't be served ends them all.
// F2. A view is served under a name that carries the fleecing's id, and under no other, until it ends.
// F3. An end first frees the guests: from then on their writes cost nothing, and reads fail. Then clients are cut off, then
//     the images are let go.
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
        fleecing.parts.append(try await hold(part, for: order.fleecing, control))
      }
      try await control.checkpoint()
      let moment = try await takeMoment(of: fleecing)
      for index in fleecing.parts.indices { try await serve(&fleecing.parts[index], of: order) }
      openFleecings.put(fleecing)
      logger.info("fleeced", metadata: ["fleecing": "\(order.fleecing)", "at": "\(order.listen.text)"])
      let sizes = fleecing.parts.map { ($0.order.image, $0.served?.export.device.byteCount ?? 0) }
      return FleecingReceipt(pointInTime: moment, virtualSizes: Dictionary(uniqueKeysWithValues: sizes))
    } catch {
      await letGo(fleecing)
      openFleecings.remove(order.fleecing)
      throw error
    }
  }

  private func hold(
    _ part: FleecingOrder.Part, for fleecing: FleecingID, _ control: any JobControl
  ) async throws -> OpenFleecing.Part {
    let (id, location) = (part.image, part.location)
    return try await withSettledImage(id, location.source, in: .folder(of: location.source.place), control) {
      [self] graph, loop in
      let image = try await heldImage(id, location, graph, for: .fleecing(fleecing), on: loop, control)
      return try await attempt {
        if case .attached(let point) = image {
          try await point.prepare(nil, self.fleecing, records, pool: pool)
        }
        return OpenFleecing.Part(order: part, image: image, loop: loop)
      } orCleanUp: {
        await image.letGo()
      }
    }
  }

  /// The moment of all that are held.
  private func takeMoment(of fleecing: OpenFleecing) async throws -> Date {
    let id = fleecing.order.fleecing
    let attached = fleecing.parts.compactMap { part -> (ResourceName, AttachedPoint)? in
      if case .attached(let point) = part.image { (part.order.imageName, point) } else { nil }
    }
    let points = Dictionary(uniqueKeysWithValues: attached.map { (ObjectIdentifier($1.graph), ($0, $1)) })
    try await GraphBarrier(graphs: attached.map(\.1.graph)).runPatiently { [weak self] graph in
      guard let (name, point) = points[ObjectIdentifier(graph)] else { return }
      point.take(in: graph, wanted: nil, onTempFull: .breakBackup) { [weak self] loss in
        self?.deliver(FleecingLoss(fleecing: id, problem: Self.problem(loss, of: name)))
      }
    }
    return clock.now()
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
    let (image, loop) = (part.image, part.loop)
    let device = try await onLoop(loop) { _ in
      FleecedDevice(image, release: order.release == .trim ? .byDiscard : .byCallsAlone)
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

  private func letGo(_ fleecing: OpenFleecing) async {
    for part in fleecing.parts {
      guard case .attached(let point) = part.image else { continue }
      await onLoopToEnd(part) { await point.endView() }
    }
    for part in fleecing.parts {
      guard let (export, address) = part.served else { continue }
      // By force nothing is refused.
      try? await export.remove(.hard(grace: Self.removalGrace))
      await listeners.withdraw(export, at: address)
    }
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
