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
///     declared twice, by whatever paths                 refused
///
/// Its source is known by the path's spelling, and by which file that leads to (``SourceIdentities``). The rows are
/// brought in line by names and spellings, so that no silent storage delays a guest. Files are compared afterwards, for
/// a bounded time.
struct ImageReconciliation {
  private let service: BackupService
  private let drafts: [ImageDraft]
  private let repositories: [RepositoryDraft]

  init(_ service: BackupService, _ declarations: Declarations) {
    self.service = service
    drafts = declarations.images
    repositories = declarations.repositories
  }

  private var transactions: CatalogTransactions { service.transactions }

  /// What is left to be done once the repositories are open.
  struct Rest: Sendable {
    /// Declared images that the catalog doesn't know.
    var newcomers: [ImageDraft] = []
    /// Images whose names, sources or labels the repositories don't know yet.
    var changed: [Image] = []

    var isEmpty: Bool { newcomers.isEmpty && changed.isEmpty }
  }

  /// Brings those rows in line that are there. Opens nothing; only to tell a new declaration from one that was moved and
  /// renamed it looks which files they are.
  func keepKnown() async throws -> Rest {
    var rest = Rest()
    var rows = KnownImages(try allPages { page in try transactions.read { try $0.images(page) } })
    var kept: Set<ImageID> = []
    func keep(_ image: Image, as draft: ImageDraft) async throws {
      kept.insert(image.id)
      guard let changed = try await update(image, to: draft) else { return }
      rows.replace(image, by: changed)
      rest.changed.append(changed)
    }
    // An image that is only renamed is found by its source: those that aren't declared any more are retired last.
    for draft in drafts {
      if let image = try known(draft, among: rows) {
        try await keep(image, as: draft)
      } else {
        rest.newcomers.append(draft)
      }
    }
    for (draft, image) in await moved(rest.newcomers, among: rows.declared.filter { !kept.contains($0.id) }) {
      rest.newcomers.removeAll { $0 == draft }
      try await keep(image, as: draft)
    }
    try await retire(rows.declared.filter { !kept.contains($0.id) })
    return rest
  }

  /// Compares the declared sources by file, registers the newcomers, to be looked at later, and tells the repositories
  /// what changed. Returns the new rows.
  func settle(_ rest: Rest) async throws -> [Image] {
    var identities = SourceIdentities()
    try await refuseSameFiles(&identities)
    let images = try await register(rest.newcomers, &identities)
    for image in rest.changed { await service.recordInRepositories(image) }
    return images
  }

  /// The image that the declaration means, as the catalog has it.
  private func known(_ draft: ImageDraft, among rows: KnownImages) throws(DomainError) -> Image? {
    guard let image = rows.image(named: draft.name) ?? rows.image(at: draft.source) else { return nil }
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

  /// Those of the newcomers that are the file of an image that isn't declared any more, under another path and name.
  private func moved(_ newcomers: [ImageDraft], among left: [Image]) async -> [(ImageDraft, Image)] {
    guard !newcomers.isEmpty, !left.isEmpty else { return [] }
    var identities = SourceIdentities()
    await identities.look(
      at: newcomers.map(\.source) + left.map(\.source), by: service.looks, timeout: service.limits.moveTimeout)
    var left = left
    return newcomers.compactMap { draft in
      guard let image = identities.image(among: left, withTheFileOf: draft.source) else { return nil }
      left.removeAll { $0.id == image.id }
      return (draft, image)
    }
  }

  /// Throws for two declared images that are one file, and for a declared one that is the file of one made over REST.
  private func refuseSameFiles(_ identities: inout SourceIdentities) async throws {
    guard !drafts.isEmpty else { return }
    let others = try allPages { page in try transactions.read { try $0.images(page) } }.filter { $0.managedBy == .api }
    let sources = drafts.map(\.source) + others.map(\.source)
    await identities.look(at: sources, by: service.looks, timeout: service.limits.comparisonTimeout)
    var declared: [FileIdentity: ImageDraft] = [:]
    for draft in drafts {
      guard let file = identities[draft.source] else { continue }
      if let other = declared.updateValue(draft, forKey: file) {
        throw DomainError(
          .sourceTaken,
          "the config declares images '\(other.name)' at \(other.source.place) and '\(draft.name)' at "
            + "\(draft.source.place), which are one file",
          remedy: "take one out")
      }
      if let other = identities.image(among: others, withTheFileOf: draft.source) {
        throw DomainError(
          .sourceTaken,
          "the config declares image '\(draft.name)' at \(draft.source.place), which is the file of image "
            + "'\(other.name)' at \(other.source.place), and that was made over REST",
          remedy: "unregister that one, or take the declaration out of the config")
      }
    }
    let silent =
      drafts.filter { identities.isSilent($0.source) }.map(\.name)
      + others.filter { identities.isSilent($0.source) }.map(\.name)
    if !silent.isEmpty {
      service.logger.warning(
        "declared images are compared with these by their paths' spelling only: their storage doesn't answer",
        metadata: ["images": "\(silent.inWords)"])
    }
  }

  /// Returns the image if it changed.
  private func update(_ image: Image, to draft: ImageDraft) async throws -> Image? {
    let location = try await service.statedLocation(of: draft)
    if image.isExclusive, !draft.isExclusive { try await service.endExclusiveness(of: image) }
    return try await transactions.write { transaction in
      guard var image = try transaction.catalog.image(image.id) else { return nil }
      let before = image
      (image.name, image.labels) = (draft.name, draft.labels)
      (image.source, image.format) = (location.source, location.format)
      image.isExclusive = draft.isExclusive
      guard image != before else { return nil }
      image = try transaction.update(image)
      try transaction.setImageName(image.name, onChainsOf: image.id)
      return image
    }
  }

  private func retire(_ retired: [Image]) async throws {
    let logger = service.logger
    for batch in retired.batches(of: service.limits.mergeBatch) {
      try await transactions.write { transaction in
        for image in batch where try transaction.catalog.image(image.id) != nil {
          try transaction.delete(image)
        }
      }
      for image in batch {
        logger.notice(
          "an image is no longer declared: it is unregistered, its file and backups stay as they are",
          metadata: ["image": "\(image.name)", "path": "\(image.source.place)"])
      }
    }
  }

  private func register(_ drafts: [ImageDraft], _ identities: inout SourceIdentities) async throws -> [Image] {
    guard !drafts.isEmpty else { return [] }
    let records = await recordedImages()
    let named = Set(drafts.map(\.name))
    await identities.look(
      at: records.filter { named.contains($0.name) }.map(\.source), by: service.looks,
      timeout: service.limits.comparisonTimeout)
    var images: [Image] = []
    for draft in drafts {
      images.append(try await register(draft, knownAs: records.filter { $0.means(draft, identities) }, &identities))
    }
    return images
  }

  private func register(
    _ draft: ImageDraft, knownAs records: [ImageRecord], _ identities: inout SourceIdentities
  ) async throws -> Image {
    let location = try await service.statedLocation(of: draft)
    let now = service.transactions.time.now()
    let free = try transactions.read { catalog in try records.map(\.id).first { try catalog.image($0) == nil } }
    let image = Image(
      id: free ?? ImageID(ULID(at: now)), name: draft.name, source: draft.source, format: location.format,
      virtualSize: 0, state: .unavailable, isExclusive: draft.isExclusive, labels: draft.labels, managedBy: .config,
      createdAt: now)
    await service.queue.awaitLooks(at: [.image(image.id)])
    try await service.comparing(draft.source, &identities) { identities, _ in
      try await transactions.write { transaction in
        try transaction.catalog.requireFree(draft.name, draft.source)
        try transaction.catalog.requireNone(beside: identities)
        try transaction.insert(image)
      }
    }
    return image
  }

  /// What the declared repositories know of images, the latest first: a lost catalog finds its ids again there.
  private func recordedImages() async -> [ImageRecord] {
    var records: [ImageRecord] = []
    for draft in repositories {
      guard let repository = try? transactions.read({ try $0.repository(named: draft.name) }) else { continue }
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

/// The images that the catalog has, read once and kept in step with what becomes of them.
private struct KnownImages {
  private var images: [ImageID: Image]
  private var names: [ResourceName: ImageID]
  /// In the order in which they were registered.
  private var sources: [ComparableSource: [ImageID]]

  init(_ images: [Image]) {
    self.images = Dictionary(uniqueKeysWithValues: images.map { ($0.id, $0) })
    names = Dictionary(uniqueKeysWithValues: images.map { ($0.name, $0.id) })
    sources = Dictionary(grouping: images) { ComparableSource($0.source) }.mapValues { $0.map(\.id) }
  }

  func image(named name: ResourceName) -> Image? { names[name].flatMap { images[$0] } }

  func image(at source: ImageSource) -> Image? { sources[ComparableSource(source)]?.first.flatMap { images[$0] } }

  /// Those that the configuration holds, in the order in which they were registered.
  var declared: [Image] { images.values.filter { $0.managedBy == .config }.sorted { $0.id < $1.id } }

  mutating func replace(_ image: Image, by changed: Image) {
    names[image.name] = nil
    sources[ComparableSource(image.source)]?.removeAll { $0 == image.id }
    images[image.id] = changed
    names[changed.name] = image.id
    sources[ComparableSource(changed.source), default: []].append(image.id)
  }
}

extension ImageRecord {
  /// Whether a repository knows what the draft declares: under the same name, at the same place or in the same file.
  fileprivate func means(_ draft: ImageDraft, _ identities: SourceIdentities) -> Bool {
    guard name == draft.name else { return false }
    return ComparableSource(source) == ComparableSource(draft.source)
      || identities[source].map { $0 == identities[draft.source] } == true
  }
}
