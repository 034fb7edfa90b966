import BlockCore
import BlockFilters
import EventLoops
import Failures
import Model
import NBD
import Repositories

extension LocalEngine {
  /// How long requests in flight may take to end when an export is taken away by force.
  static let removalGrace = Duration.seconds(5)
  /// How long a client may take to be noticed as gone, and how often it is looked for.
  private static let farewell = Duration.milliseconds(200)
  private static let farewellPause = Duration.milliseconds(10)

  package func export(_ order: ExportOrder) async throws {
    calls.begin(nil)
    defer { calls.end(nil) }
    try listeners.check(order.tls)
    guard servedExports.reserve(order) else {
      throw DomainError(.nameTaken, "the export \(order.name) is served already")
    }
    do {
      let source = try await open(order)
      do {
        let export = NBDExport(
          name: order.name.description, device: source.device, loop: source.loop,
          options: Self.options(order, try await contexts(order, source)))
        let address = try await listeners.publish(export, at: order.listen, tls: order.tls)
        servedExports.put(
          ServedExport(export: export, order: order, address: address, source: source), as: order.export)
      } catch {
        await close(source, of: order.export)
        throw error
      }
    } catch {
      servedExports.remove(order.export)
      throw error
    }
    logger.info("exported", metadata: ["export": "\(order.name)", "at": "\(order.listen.text)"])
  }

  package func setContexts(_ order: ExportOrder) async throws {
    calls.begin(nil)
    defer { calls.end(nil) }
    guard let served = servedExports.served(order.export) else {
      throw DomainError(.notFound, "the export \(order.name) isn't served", remedy: "see its failure")
    }
    servedExports.set(order)
    do {
      served.export.setContexts(try await contexts(order, served.source))
    } catch {
      servedExports.set(served.order)
      throw error
    }
  }

  private static func options(_ order: ExportOrder, _ contexts: [any ExportContext]) -> NBDExport.Options {
    var options = NBDExport.Options()
    options.description = order.description
    options.isReadOnly = order.isReadOnly
    options.requiresTLS = order.tls != nil
    options.contexts = contexts
    return options
  }

  /// - Throws: `invalidField` for writing to what only an attached image allows.
  private func open(_ order: ExportOrder) async throws -> OpenExportSource {
    let use = ImageUse(.export(order.name), needs: order.isReadOnly ? .read : .write)
    switch order.source {
    case .attachedImage(let image):
      let graph = try attachedImages.join(image, use)
      return OpenExportSource(
        device: graph.slot, loop: graph.loop, joined: (image, use), bitmaps: graph.bitmaps.map { .live($0) })
    case .image(let location):
      guard order.isReadOnly else {
        throw DomainError(.invalidField, "an image that isn't attached can only be exported read-only")
      }
      return try await onLoop(in: .folder(of: location.source.place)) { [self] loop in
        let image = try await opener(on: loop).open(location, for: use)
        return OpenExportSource(
          device: AlignedAccess.over(image.device), loop: loop, joined: nil,
          bitmaps: image.format.qcow2.map { .atRest($0) })
      }
    case .backup(let place):
      guard order.isReadOnly else { throw DomainError(.invalidField, "a backup can only be exported read-only") }
      return try await onLoop(in: place.repository.lane) { [self] loop in
        let stored = try await open(place.repository, on: loop).stored(place)
        return OpenExportSource(device: try await openChecked(stored, for: order.name), loop: loop, joined: nil)
      }
    }
  }

  /// Closes what was opened for the export; an attached image stays open.
  private func close(_ source: OpenExportSource, of export: ExportID) async {
    if let (image, use) = source.joined { return attachedImages.leave(image, use) }
    do {
      try await onLoop(source.loop) { _ in try await source.device.close() }
    } catch {
      logger.warning("closing what was exported", metadata: ["export": "\(export)", "error": "\(error)"])
    }
  }

  package func withdraw(_ id: ExportID, _ removal: ExportRemoval) async throws {
    guard let served = servedExports.beginLeaving(id) else { return }
    calls.begin(nil)
    defer { calls.end(nil) }
    do throws(NBDExport.InUse) {
      switch removal {
      case .safe: try await Self.removeSafely(served.export)
      case .hard: try await served.export.remove(.hard(grace: Self.removalGrace))
      }
    } catch {
      servedExports.put(served, as: id)
      throw DomainError(
        .exportInUse,
        "the export \(error.name) is used by \(error.clientCount) \(error.clientCount == 1 ? "client" : "clients")",
        remedy: "disconnect its clients, or delete it with mode=hard")
    }
    await listeners.withdraw(served.export, at: served.address)
    await close(served.source, of: id)
    servedExports.remove(id)
  }

  /// A client that has ended is noticed a moment later: an export that is taken away right after isn't refused.
  private static func removeSafely(_ export: NBDExport) async throws(NBDExport.InUse) {
    let deadline = ContinuousClock.now + farewell
    while ContinuousClock.now < deadline {
      if export.figures.clientCount == 0, (try? await export.remove(.safe)) != nil { return }
      guard (try? await Task.sleep(for: farewellPause)) != nil else { break }
    }
    try await export.remove(.safe)
  }

  package func activity(of export: ExportID) -> ExportActivity? {
    servedExports.figures(of: export).map { ExportActivity($0) }
  }
}

extension ExportActivity {
  fileprivate init(_ figures: ExportFigures) {
    self.init(
      clients: figures.clientCount, reads: Requests(figures[.read]), writes: Requests(figures[.write]),
      flushes: Requests(figures[.flush]), others: Requests(figures[.other]))
  }
}

extension ExportActivity.Requests {
  init(_ figures: ExportFigures.Requests) {
    func microseconds(_ share: Double) -> UInt64? {
      figures.latency.microseconds(share: share).map { UInt64($0.rounded(.up)) }
    }
    self.init(count: figures.count, failed: figures.failedCount, bytes: figures.byteCount)
    if let half = microseconds(0.5), let most = microseconds(0.99), let nearlyAll = microseconds(0.999) {
      latency = ExportActivity.Latency(p50: half, p99: most, p999: nearlyAll)
    }
  }
}
