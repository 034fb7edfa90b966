import Foundation
import Model

/// An image to be registered.
package struct ImageDraft: Hashable, Sendable {
  package var name: ResourceName
  package var source: ImageSource
  /// Must be stated; without it the registration is refused, with a suggestion.
  package var format: DiskFormat?
  package var isExclusive: Bool
  package var labels: [String: String]

  package init(
    name: ResourceName, source: ImageSource, format: DiskFormat?, isExclusive: Bool = false,
    labels: [String: String] = [:]
  ) {
    self.name = name
    self.source = source
    self.format = format
    self.isExclusive = isExclusive
    self.labels = labels
  }
}

/// What to change of an image; nil and `keep` leave it as it is.
package struct ImageChange: Hashable, Sendable {
  package var name: ResourceName?
  package var isExclusive: Bool?
  package var labels: LabelChange

  package init(name: ResourceName? = nil, isExclusive: Bool? = nil, labels: LabelChange = .keep) {
    self.name = name
    self.isExclusive = isExclusive
    self.labels = labels
  }
}

/// The labels' part of a JSON merge patch.
package enum LabelChange: Hashable, Sendable {
  case keep
  case clear
  /// Sets each key to its value; nil removes it.
  case merge([String: String?])

  func applied(to labels: [String: String]) -> [String: String] {
    switch self {
    case .keep: labels
    case .clear: [:]
    case .merge(let changes):
      changes.reduce(into: labels) { labels, change in labels[change.key] = change.value }
    }
  }
}

/// An image that isn't registered any more, and what became of its bitmaps.
package struct UnregisteredImage: Hashable, Sendable {
  package var image: Image
  package var removal = TrackingRemoval()
}

extension BackupService {
  package func image(_ reference: Reference<Image>) throws -> Image {
    try transactions.read { try $0.find(reference) }
  }

  package func images(_ page: PageRequest) throws -> Page<Image> { try transactions.read { try $0.images(page) } }

  /// Opens the image, and keeps it under its name. Throws `formatRequired` without a format, `formatMismatch` if it
  /// isn't of it, `sourceTaken` and `nameTaken`, and what the engine says of the source.
  package func registerImage(
    _ draft: ImageDraft, _ conditions: ChangeConditions<Image> = ChangeConditions()
  ) async throws -> Answer<Image> {
    try await answering(conditions) {
      try limits.requireLabels(draft.labels)
      let location = try await statedLocation(of: draft)
      let inspection = try await openable(location)
      var identities = SourceIdentities()
      return try await comparing(draft.source, &identities) { identities, unknown in
        let answer = try await registerImage(draft, location, inspection, conditions, identities, unknown)
        if case .done(let image) = answer { noteNotCompared(image.name, with: unknown) }
        return answer
      }
    }
  }

  /// - Parameter unknown: images of which it can't be told whether they are the file of the draft's source.
  private func registerImage(
    _ draft: ImageDraft, _ location: ImageLocation, _ inspection: ImageInspection,
    _ conditions: ChangeConditions<Image>,
    _ identities: SourceIdentities, _ unknown: [ResourceName]
  ) async throws -> Answer<Image> {
    let check: @Sendable (any CatalogReading) throws -> Void = { catalog in
      try catalog.requireFree(draft.name, draft.source)
      try catalog.requireNone(beside: identities)
    }
    return try await change(conditions) { view in
      try check(view.catalog)
      return Self.plan(draft, location, inspection, notComparedWith: unknown)
    } apply: { transaction in
      try check(transaction.catalog)
      let image = Image(
        id: ImageID(ULID(at: transaction.now)), name: draft.name, source: draft.source, format: location.format,
        virtualSize: inspection.virtualSize, isExclusive: draft.isExclusive, labels: draft.labels,
        createdAt: transaction.now)
      try transaction.insert(image)
      return image
    }
  }

  /// Changes name, labels, and whether it is exclusive. Throws `managedByConfig`, `nameTaken`, `preconditionFailed`.
  package func changeImage(
    _ reference: Reference<Image>, _ change: ImageChange, _ conditions: ChangeConditions<Image> = ChangeConditions()
  ) async throws -> Answer<Image> {
    let changed: @Sendable (any CatalogReading) throws -> Image = { [limits] catalog in
      var image = try catalog.find(reference)
      try conditions.require(revision: image.revision, of: "image '\(image.name)'")
      try image.managedBy.requireChangeable("image '\(image.name)'")
      if let name = change.name, name != image.name {
        try catalog.requireFree(name)
        image.name = name
      }
      if let isExclusive = change.isExclusive, isExclusive != image.isExclusive {
        // How an image is open is said when it is opened.
        try catalog.requireUnused(image)
        image.isExclusive = isExclusive
      }
      image.labels = change.labels.applied(to: image.labels)
      try limits.requireLabels(image.labels)
      return image
    }
    return try await answering(conditions) {
      if change.isExclusive == false, !conditions.dryRun {
        let image = try transactions.read {
          _ = try changed($0); return try $0.find(reference)
        }
        if image.isExclusive { try await endExclusiveness(of: image) }
      }
      let answer = try await self.change(conditions) { view in
        Plan(action: "change-image", steps: ["change the image"], resource: .image(try changed(view.catalog)))
      } apply: { transaction in
        let image = try changed(transaction.catalog)
        guard try transaction.catalog.image(image.id) != image else { return image }
        let stored = try transaction.update(image)
        try transaction.setImageName(stored.name, onChainsOf: stored.id)
        return stored
      }
      if case .done(let image) = answer { await recordInRepositories(image) }
      return answer
    }
  }

  /// Has nothing count any more that was recorded of an image while it was exclusive, before it ceases to be: others may
  /// write to it from then on, and it may be declared exclusive again.
  func endExclusiveness(of image: Image) async throws {
    let removal = await engine.removeTracking(from: image.location, tracker: nil)
    if let failure = removal.failure {
      throw DomainError(
        failure.code, "what was recorded of the changes of '\(image.name)' can't be removed: \(failure.detail)",
        remedy: failure.remedy)
    }
  }

  /// Forgets the image; its file and its backups stay. What was put into the file to track its changes is taken out
  /// again. Throws `imageInUse` while a job or an export uses it.
  package func unregisterImage(
    _ reference: Reference<Image>, _ conditions: ChangeConditions<UnregisteredImage> = ChangeConditions()
  ) async throws -> Answer<UnregisteredImage> {
    let doomed: @Sendable (any CatalogReading) throws -> Image = { catalog in
      let image = try catalog.find(reference)
      try conditions.require(revision: image.revision, of: "image '\(image.name)'")
      try image.managedBy.requireChangeable("image '\(image.name)'")
      try catalog.requireUnused(image)
      return image
    }
    return try await answering(conditions) {
      let answer = try await change(conditions) { view in
        let image = try doomed(view.catalog)
        var steps = ["forget image '\(image.name)'; its file and backups stay"]
        if image.format == .qcow2 { steps.append("remove the bitmaps of its trackers from \(image.source.place)") }
        return Plan(
          action: "unregister-image", steps: steps, warnings: image.damageWarnings, resource: .image(image))
      } apply: { transaction in
        let image = try doomed(transaction.catalog)
        try transaction.delete(image)
        return UnregisteredImage(image: image)
      }
      guard case .done(var unregistered) = answer else { return answer }
      unregistered.removal = await removeTracking(from: unregistered.image)
      return .done(unregistered)
    }
  }

  /// What the image's own metadata tells. Takes note of whether it could be opened, and of its size.
  package func inspectImage(_ reference: Reference<Image>) async throws -> ImageInspection {
    let image = try image(reference)
    do {
      let inspection = try await engine.inspect(image.location)
      await note(.found(virtualSize: inspection.virtualSize), of: image.id)
      return inspection
    } catch {
      await note(ImageProbe(error), of: image.id)
      throw error
    }
  }

  /// A page of the image's extents. `generation` is the one of the page before: throws `extentsChanged` if the image's
  /// map may have changed since.
  package func extents(
    ofImage reference: Reference<Image>, offset: UInt64, length: UInt64?, limit: Int, generation: String?
  ) async throws -> ExtentPage {
    let image = try image(reference)
    let page = try await engine.extents(of: image.location, offset: offset, length: length, limit: limit)
    guard generation == nil || generation == page.generation else {
      throw DomainError(
        .extentsChanged, "image '\(image.name)' changed since the page before",
        remedy: "start again from the first page")
    }
    return page
  }
}
