import Foundation
import Logging
import Model

/// Brings the catalog's images in line with the declared ones.
///
///     declared, and in the catalog by name              kept, with the declared source, format and labels
///     declared, and in the catalog by its source        renamed, if the config declared it
///     declared, and in a declared repository by both    registered with the id that its backups know it by
///     declared, and nowhere                             registered
///     in the catalog by an earlier config only          retired: its row goes, its file and backups stay
///     declared, but made over REST                      refused
struct ImageReconciliation {
  private let service: BackupService
  private let drafts: [ImageDraft]
  private let repositories: [RepositoryDraft]

  init(_ service: BackupService, _ declarations: Declarations) {
    self.service = service
    drafts = declarations.images
    repositories = declarations.repositories
  }

  private var ledger: Ledger { service.ledger }

  /// What is left to be done once the repositories are open.
  struct Rest: Sendable {
    /// Declared images that the catalog doesn't know.
    var newcomers: [ImageDraft] = []
    /// Images whose names, sources or labels the repositories don't know yet.
    var changed: [Image] = []

    var isEmpty: Bool { newcomers.isEmpty && changed.isEmpty }
  }

  /// Brings those rows in line that are there; opens nothing.
  func keepKnown() async throws -> Rest {
    var rest = Rest()
    var kept: Set<ImageID> = []
    // An image that is only renamed is found by its source: those that aren't declared any more are retired last.
    for draft in drafts {
      guard let image = try known(draft) else {
        rest.newcomers.append(draft)
        continue
      }
      kept.insert(image.id)
      if let image = try await update(image, to: draft) { rest.changed.append(image) }
    }
    try await retire(allBut: kept)
    return rest
  }

  /// Registers the newcomers, to be looked at later, and tells the repositories what changed. Returns the new rows.
  func settle(_ rest: Rest) async throws -> [Image] {
    let images = try await register(rest.newcomers)
    for image in rest.changed { await service.recordInRepositories(image) }
    return images
  }

  /// The image that the declaration means, as the catalog has it.
  private func known(_ draft: ImageDraft) throws -> Image? {
    try ledger.read { catalog in
      let image =
        try catalog.image(named: draft.name)
        ?? registeredSources(in: catalog)[ComparableSource(draft.source)].flatMap { try catalog.image(named: $0) }
      guard let image else { return nil }
      if image.managedBy == .config {
        // Its source's row may be declared itself, under its own name: then this one is another image.
        let isOther = image.name != draft.name && drafts.contains { $0.name == image.name }
        return isOther ? nil : image
      }
      throw DomainError(
        image.name == draft.name ? .nameTaken : .sourceTaken,
        "the config declares image '\(draft.name)' at \(draft.source.place), but image '\(image.name)' at "
          + "\(image.source.place) was made over REST",
        remedy: "rename or unregister that one, or take the declaration out of the config")
    }
  }

  /// Returns the image if it changed.
  private func update(_ image: Image, to draft: ImageDraft) async throws -> Image? {
    let location = try await service.statedLocation(of: draft)
    return try await ledger.write { catalog, now in
      guard var image = try catalog.image(image.id) else { return nil }
      let before = image
      (image.name, image.labels) = (draft.name, draft.labels)
      (image.source, image.format) = (location.source, location.format)
      guard image != before else { return nil }
      image = try catalog.update(image)
      try catalog.setImageName(image.name, onChainsOf: image.id)
      try catalog.announce(.imageChanged, image, at: now)
      return image
    }
  }

  private func retire(allBut kept: Set<ImageID>) async throws {
    let logger = service.logger
    let retired = try allPages { page in try ledger.read { try $0.images(page) } }
      .filter { $0.managedBy == .config && !kept.contains($0.id) }
    for batch in retired.batches(of: service.limits.mergeBatch) {
      try await ledger.write { catalog, now in
        for image in batch where try catalog.image(image.id) != nil {
          try catalog.delete(image.id)
          try catalog.announce(.imageDeleted, image, at: now)
        }
      }
      for image in batch {
        logger.notice(
          "an image is no longer declared: it is unregistered, its file and backups stay as they are",
          metadata: ["image": "\(image.name)", "path": "\(image.source.place)"])
      }
    }
  }

  private func register(_ drafts: [ImageDraft]) async throws -> [Image] {
    guard !drafts.isEmpty else { return [] }
    let records = await recordedImages()
    var images: [Image] = []
    for draft in drafts {
      let location = try await service.statedLocation(of: draft)
      let recorded = records.filter {
        $0.name == draft.name && ComparableSource($0.source) == ComparableSource(draft.source)
      }
      let now = service.ledger.clock.now()
      let free = try ledger.read { catalog in try recorded.map(\.id).first { try catalog.image($0) == nil } }
      let image = Image(
        id: free ?? ImageID(ULID(at: now)), name: draft.name, source: draft.source, format: location.format,
        virtualSize: 0, state: .unavailable, labels: draft.labels, managedBy: .config, createdAt: now)
      await service.queue.awaitLooks(at: [.image(image.id)])
      try await ledger.write { catalog, now in
        try BackupService.requireFree(draft.name, draft.source, in: catalog)
        try catalog.insert(image)
        try catalog.announce(.imageCreated, image, at: now)
      }
      images.append(image)
    }
    return images
  }

  /// What the declared repositories know of images, the latest first: a lost catalog finds its ids again there.
  private func recordedImages() async -> [ImageRecord] {
    var records: [ImageRecord] = []
    for draft in repositories {
      guard let repository = try? ledger.read({ try $0.repository(named: draft.name) }) else { continue }
      do {
        records += try await service.engine.scan(repository.location).images
      } catch {
        service.logger.warning(
          "a repository can't be searched for images that it knows",
          metadata: ["repository": "\(repository.name)", "error": "\(error)"])
      }
    }
    return records.sorted { $0.id > $1.id }
  }
}
