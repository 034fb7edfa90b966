import Foundation
import Model

extension BackupService {
  /// Extents that one call releases.
  package static let releasedExtents = 10_000

  package func fleecing(_ id: FleecingID) async throws -> FleecingView {
    await shown(try transactions.read { try $0.find(id) })
  }

  /// Its revision.
  package func fleecingRevision(_ id: FleecingID) throws -> Int { try transactions.read { try $0.find(id).revision } }

  package func fleecings(_ filter: FleecingFilter, _ page: PageRequest) async throws -> Page<FleecingView> {
    let page = try transactions.read { try $0.fleecings(filter, page) }
    var views: [FleecingView] = []
    for fleecing in page.items { views.append(await shown(fleecing)) }
    return Page(items: views, next: page.next)
  }

  private func shown(_ fleecing: Fleecing) async -> FleecingView {
    FleecingView(fleecing: fleecing, activity: fleecing.state.isEnded ? nil : await engine.activity(of: fleecing.id))
  }

  /// A job that has all images at one moment, and serves a view of each. Throws `notFound`, `invalidField`,
  /// `imageInUse`, `tlsRequired`, `queueFull`, `bitmapBusy` for a tracker of backups, and `trackingLost` for a base that no
  /// bitmap counts from.
  package func createFleecing(
    _ draft: FleecingDraft, _ conditions: ChangeConditions<Job> = ChangeConditions()
  ) async throws -> Answer<Job> {
    let limits = limits
    return try await submit(conditions) { view in
      try draft.listen.require(draft.tls)
      let images = try view.catalog.images(ofOneMoment: draft.images, limits)
      try view.catalog.requireRoomForFleecing(limits)
      try view.catalog.require(draft.tracker, forFleecing: images)
      for image in images { _ = try view.catalog.base(draft.since, of: image) }
      try draft.requireBase(images)
      let fleecing = Fleecing(
        id: FleecingID(ULID(at: view.now)),
        images: images.map { Fleecing.Part(image: $0.id, imageName: $0.name, virtualSize: $0.virtualSize) },
        listen: draft.listen, tls: draft.tls, release: draft.release, access: draft.access, since: draft.since,
        tracker: draft.tracker, createdAt: view.now)
      let ids = images.map(\.id)
      return JobDraft(
        request: .fleece(fleecing: fleecing.id, images: ids, lifetime: draft.lifetime),
        links: JobLinks(image: ids.count == 1 ? ids[0] : nil, images: ids, fleecing: fleecing.id),
        plan: Plan(
          action: "create-fleecing",
          steps: images.map { image in
            "serve what image '\(image.name)' holds at the moment, at \(draft.listen.text), for \(draft.lifetime) s"
          },
          warnings: images.filter { $0.state == .unavailable }.map {
            "image '\($0.name)' couldn't be opened the last time"
          } + images.flatMap(\.damageWarnings),
          resource: .fleecing(fleecing, lifetime: draft.lifetime)),
        fleecing: fleecing)
    }
  }

  /// A job that ends the views; with success it sets a checkpoint, which `label` is for. Throws `fleecingEnded`.
  package func finishFleecing(
    _ id: FleecingID, _ outcome: Fleecing.Outcome, label: String? = nil,
    _ conditions: ChangeConditions<Job> = ChangeConditions()
  ) async throws -> Answer<Job> {
    try await submit(conditions) { view in
      let fleecing = try Self.active(id, conditions, in: view.catalog)
      let images = fleecing.images.map(\.image)
      for job in try view.catalog.liveJobs() {
        guard case .finishFleecing(id, _, _, _) = job.request else { continue }
        throw DomainError(
          .fleecingEnded, "the finish-fleecing job \(job.id) ends the fleecing", remedy: "wait for that job")
      }
      return JobDraft(
        request: .finishFleecing(fleecing: id, images: images, outcome: outcome, label: label),
        links: JobLinks(image: images.count == 1 ? images[0] : nil, images: images, fleecing: id),
        plan: Plan(
          action: "finish-fleecing",
          steps: ["end the views of fleecing \(id), with \(outcome.rawValue)"]
            + (outcome == .success ? fleecing.newCheckpoints.map { Self.step(toSet: $0, fleecing) } : []),
          resource: .fleecingEnd(id, outcome)))
    }
  }

  private static func step(toSet checkpoint: FleecingCheckpoint, _ fleecing: Fleecing) -> String {
    let name = fleecing.part(of: checkpoint.image)?.imageName.text ?? checkpoint.image.description
    return "have tracker '\(checkpoint.tracker)' of image '\(name)' count from checkpoint \(checkpoint.id)"
  }

  /// Has it expire that many seconds from now. Throws `fleecingEnded`.
  package func renewFleecing(
    _ id: FleecingID, lifetime: Int, _ conditions: ChangeConditions<FleecingView> = ChangeConditions()
  ) async throws -> Answer<FleecingView> {
    try await answering(conditions) {
      try await serving.fleecings.alone(with: id) {
        let activity = conditions.dryRun ? nil : await engine.activity(of: id)
        return try await change(conditions) { view in
          _ = try Self.active(id, conditions, in: view.catalog)
          return Plan(
            action: "renew-fleecing", steps: ["have fleecing \(id) expire in \(lifetime) s"],
            resource: .renewal(of: id, lifetime: lifetime))
        } apply: { transaction in
          var fleecing = try Self.active(id, conditions, in: transaction.catalog)
          fleecing.expiresAt = transaction.now + Double(lifetime)
          return FleecingView(fleecing: try transaction.update(fleecing), activity: activity)
        }
      }
    }
  }

  /// The reader is done with these bytes: nothing is kept of them any more. Throws `fleecingEnded`, `notFound`,
  /// `invalidField` for what lies beyond the disk's end.
  package func releaseFleeced(
    _ extents: [FleecedExtent], of reference: Reference<Image>, in id: FleecingID,
    _ conditions: ChangeConditions<FleecingID> = ChangeConditions()
  ) async throws -> Answer<FleecingID> {
    let part: @Sendable (any CatalogReading) throws -> Fleecing.Part = { catalog in
      let fleecing = try Self.active(id, conditions, in: catalog)
      let part = try fleecing.part(of: reference)
      try part.requireWithin(extents)
      return part
    }
    return try await answering(conditions) {
      if !conditions.dryRun {
        try await engine.release(extents, of: try transactions.read { try part($0).image }, in: id)
      }
      return try await change(conditions) { view in
        let part = try part(view.catalog)
        return Plan(
          action: "release-fleeced",
          steps: ["free what is kept of \(extents.count) extents of image '\(part.imageName)'"],
          resource: .released(extents, of: part.image, in: id))
      } apply: { transaction in
        _ = try part(transaction.catalog)
        return id
      }
    }
  }

  /// Ends the views, as a finish with failure does; one that has ended is forgotten. Throws `fleecingEnded` while a job
  /// finishes it.
  package func deleteFleecing(
    _ id: FleecingID, _ conditions: ChangeConditions<FleecingID> = ChangeConditions()
  ) async throws -> Answer<FleecingID> {
    try await answering(conditions) {
      if conditions.dryRun {
        return .planned(try transactions.view(by: conditions.caller) { try Self.deletion(of: id, conditions, in: $0) })
      }
      let before = try transactions.read { try $0.find(id) }
      // The job has the turn until it has ended.
      if before.state == .finishing { try before.requireActive() }
      return try await serving.fleecings.alone(with: id) {
        let fleecing = try transactions.read { try $0.find(id) }
        try conditions.require(revision: fleecing.revision, of: "fleecing \(id)")
        switch fleecing.state {
        case .finishing: try fleecing.requireActive()
        case .starting: try await cancelStart(of: id)
        case .active: await engine.end(id)
        case .finished, .expired, .broken: break
        }
        return try await change(conditions) { view in
          try Self.deletion(of: id, conditions, in: view)
        } apply: { transaction in
          guard var row = try transaction.catalog.fleecing(id) else { return id }
          if row.state == .active {
            row.end(.finished(.failure), at: transaction.now)
            try transaction.update(row)
          } else if before.state.isEnded {
            try transaction.delete(row)
          }
          return id
        }
      }
    }
  }

  /// Its job hasn't come to it yet, and won't.
  private func cancelStart(of id: FleecingID) async throws {
    let job = try transactions.read { try $0.liveJobs() }.first { job in
      if case .fleece(id, _, _) = job.request { true } else { false }
    }
    if let job { _ = try await cancelJob(job.id) }
  }

  private static func deletion<Value>(
    of id: FleecingID, _ conditions: ChangeConditions<Value>, in view: CatalogView
  ) throws -> Plan {
    let fleecing = try view.catalog.find(id)
    try conditions.require(revision: fleecing.revision, of: "fleecing \(id)")
    if fleecing.state == .finishing { try fleecing.requireActive() }
    let step = fleecing.state.isEnded ? "forget fleecing \(id)" : "end the views of fleecing \(id), with failure"
    return Plan(
      action: "delete-fleecing", steps: [step],
      resource: .fleecingEnd(id, fleecing.state.isEnded ? nil : .failure))
  }

  private static func active<Value>(
    _ id: FleecingID, _ conditions: ChangeConditions<Value>, in catalog: any CatalogReading
  ) throws -> Fleecing {
    let fleecing = try catalog.find(id)
    try conditions.require(revision: fleecing.revision, of: "fleecing \(id)")
    try fleecing.requireActive()
    return fleecing
  }
}

extension Fleecing {
  /// Its part of the image. Throws `notFound`.
  fileprivate func part(of reference: Reference<Image>) throws(DomainError) -> Part {
    let part =
      switch reference {
      case .id(let id): part(of: id)
      case .name(let name): images.first { $0.imageName == name }
      }
    guard let part else {
      throw DomainError(.notFound, "the fleecing \(id) doesn't show image '\(reference)'")
    }
    return part
  }
}

extension Fleecing.Part {
  /// Throws `invalidField` for what lies beyond the disk's end.
  fileprivate func requireWithin(_ extents: [FleecedExtent]) throws(DomainError) {
    for (index, extent) in extents.enumerated() {
      let (end, overflows) = extent.offset.addingReportingOverflow(extent.length)
      guard overflows || end > virtualSize else { continue }
      throw DomainError(
        .invalidField, "image '\(imageName)' has \(virtualSize) bytes",
        faults: [DomainError.Fault(Field("extents").item(index), "reaches beyond the disk's end")])
    }
  }
}
