import Model

// What an image must be, and must not be, for what is to be done with it.

extension Image {
  mutating func attach(_ receipt: AttachReceipt, cause: Attachment.Cause) {
    state = .attached
    attachment = Attachment(cache: receipt.cache, cause: cause)
    virtualSize = receipt.virtualSize
  }

  /// An unavailable image stays unavailable until the next probe.
  mutating func detach() {
    if state == .attached { state = .detached }
    attachment = nil
  }

  /// Neither open here for a guest, nor to be opened again.
  var isAtRest: Bool { state != .attached && attachment == nil }

  /// Throws `imageInUse` for an image that is attached, or is to be again.
  fileprivate func requireAtRest() throws(DomainError) {
    guard state != .attached else {
      guard attachment?.cause == .export else {
        throw DomainError(.imageInUse, "image '\(name)' is attached", remedy: "detach it first")
      }
      throw DomainError(
        .imageInUse, "image '\(name)' is attached for its exports", remedy: "delete its exports first")
    }
    try requireSettled()
  }

  /// Throws `imageInUse` for an image that is to be attached, and couldn't be opened yet.
  fileprivate func requireSettled() throws(DomainError) {
    guard state == .attached || attachment == nil else {
      throw DomainError(
        .imageInUse, "image '\(name)' is to be attached, and couldn't be opened yet",
        remedy: "attach it again, or detach it")
    }
  }

  /// Throws `confirmationRequired` unless `confirm` is the image's name.
  func requireConfirmation(_ confirm: String?, because why: String) throws(DomainError) {
    guard confirm != name.text else { return }
    throw DomainError(
      .confirmationRequired, why, remedy: "send \"confirm\": \"\(name)\" if that is meant",
      faults: [DomainError.Fault(.confirm, "must be the image's name")])
  }
}

extension CatalogReading {
  /// The service's rule for who may use an image's files, as the catalog knows it: a fast refusal. The engine decides.
  /// Throws `imageInUse` where the need is for an image at rest and this one isn't, or is for it alone and it is exported.
  func require(_ need: ImageNeed, of image: Image) throws {
    if need.isAtRest { try image.requireAtRest() }
    if need == .alone { try requireUnserved(image) }
  }

  /// Throws `imageInUse` unless the image can be backed up: at rest, or while it is attached.
  func requireBackable(_ image: Image) throws { try image.requireSettled() }

  /// Those of a backup or a fleecing. Throws `notFound`, `invalidField`, `imageInUse`.
  func images(ofOneMoment references: [Reference<Image>], _ limits: ServiceLimits) throws -> [Image] {
    guard (1...limits.imagesPerBackup).contains(references.count) else {
      throw DomainError(
        .invalidField, "1 to \(limits.imagesPerBackup) images come to one moment",
        faults: [DomainError.Fault(.images, "has \(references.count) items")])
    }
    var images: [Image] = []
    for (index, reference) in references.enumerated() {
      let image = try find(reference)
      guard !images.contains(where: { $0.id == image.id }) else {
        throw DomainError(
          .invalidField, "image '\(image.name)' is named twice",
          faults: [DomainError.Fault(.images.item(index), "is the same image as one before")])
      }
      try requireBackable(image)
      images.append(image)
    }
    return images
  }

  /// Throws `imageInUse` while the image is attached or exported, or a job uses it.
  func requireUnused(_ image: Image) throws {
    try require(.alone, of: image)
    if let job = try liveJobs().first(where: { $0.request.work.images.contains(image.id) }) {
      throw DomainError(
        .imageInUse, "the \(job.request.kind.rawValue) job \(job.id) uses image '\(image.name)'",
        remedy: "wait for it, or cancel it")
    }
  }

  /// Throws `imageInUse` while a job is at work on the image.
  func requireNoJobAtWork(on image: Image) throws {
    guard
      let job = try liveJobs().first(where: { $0.state != .queued && $0.request.work.images.contains(image.id) })
    else { return }
    throw DomainError(
      .imageInUse, "the \(job.request.kind.rawValue) job \(job.id) uses image '\(image.name)'",
      remedy: "wait for it, or cancel it")
  }

  /// Throws `imageInUse` while the image has exports, or is fleeced; with `onlyActive`, while clients are offered it.
  func requireUnserved(_ image: Image, onlyActive: Bool = false) throws {
    try requireUnfleeced(image)
    let exports = try allPages { try self.exports(ExportFilter(image: image.id), $0) }
      .filter { !onlyActive || $0.state == .active }
    guard !exports.isEmpty else { return }
    throw DomainError(
      .imageInUse, "image '\(image.name)' is exported as \(exports.quoted)", remedy: "delete the exports first")
  }

  /// Throws `imageInUse` if there is nothing to attach: it is already, or a read-only export has it open.
  func requireAttachable(_ image: Image, cache: CacheMode?) throws {
    guard image.state == .attached, let attachment = image.attachment else {
      // Those that are unavailable are opened when it is attached.
      if image.attachment == nil { try requireUnserved(image, onlyActive: true) }
      return
    }
    guard attachment.cause == .export else {
      throw DomainError(.imageInUse, "image '\(image.name)' is attached already")
    }
    guard cache == nil || cache == attachment.cache else {
      throw DomainError(
        .imageInUse,
        "image '\(image.name)' is attached already, for its exports, with cache \(attachment.cache.rawValue)",
        remedy: "leave \"cache\" out to keep it attached as it is, or delete its exports first")
    }
  }

  /// Throws `imageInUse` unless it is at rest; a repair needs it alone.
  func requireCheckable(_ image: Image, repairsLeaks: Bool) throws {
    try require(repairsLeaks ? .alone : .rest, of: image)
  }

  /// Throws `imageNotAttached`, and `imageInUse` while it has exports.
  func requireDetachable(_ image: Image) throws {
    guard !image.isAtRest else {
      throw DomainError(.imageNotAttached, "image '\(image.name)' isn't attached")
    }
    try requireUnserved(image)
  }

  /// The image must be detached, not exported, and as large as the backup.
  func requireRestorable(_ backup: Backup, over image: Image) throws {
    try require(.alone, of: image)
    guard image.virtualSize == backup.virtualSize else {
      throw DomainError(
        .targetMismatch,
        "image '\(image.name)' has \(image.virtualSize) bytes, backup \(backup.id) has \(backup.virtualSize)",
        remedy: "restore to a new file instead")
    }
  }

  /// Throws `nameTaken`, and `sourceTaken` as far as the spelling tells.
  func requireFree(_ name: ResourceName, _ source: ImageSource) throws {
    try requireFree(name)
    if let other = try registeredSources()[ComparableSource(source)] {
      throw DomainError(
        .sourceTaken, "\(source.place) is registered already, as image '\(other)'", remedy: "use that image")
    }
  }

  func requireFree(_ name: ResourceName) throws {
    guard let other = try image(named: name) else { return }
    throw DomainError(.nameTaken, "image \(other.id) has the name '\(name)' already", remedy: "choose another name")
  }

  /// Throws ``RegisteredMeanwhile`` if there is an image by now that wasn't part of the comparison.
  func requireNone(beside identities: SourceIdentities) throws {
    guard try allPages({ try images($0) }).allSatisfy({ identities.covers($0.source) }) else {
      throw RegisteredMeanwhile()
    }
  }

  /// All registered images' sources, with the names of their images.
  func registeredSources() throws -> [ComparableSource: ResourceName] {
    let images = try allPages { try self.images($0) }
    return Dictionary(images.map { (ComparableSource($0.source), $0.name) }) { first, _ in first }
  }
}

/// A source as it is compared with others: by its path's spelling, or by its URI.
struct ComparableSource: Hashable, Sendable {
  let place: String

  init(_ source: ImageSource) {
    switch source {
    case .file(let path), .device(let path): place = comparablePath(path)
    case .nbd(let uri): place = uri
    }
  }
}

extension ServiceLimits {
  /// Throws `invalidField` for labels beyond what the limits say.
  func requireLabels(_ labels: [String: String]) throws(DomainError) {
    guard labels.count <= labelsPerImage else {
      throw DomainError(
        .invalidField, "an image has at most \(labelsPerImage) labels",
        faults: [DomainError.Fault(.labels, "has \(labels.count) members")])
    }
    for (key, value) in labels
    where key.isEmpty || key.utf8.count > labelLength || value.utf8.count > labelLength {
      throw DomainError(
        .invalidField, "a label has a key of 1 to \(labelLength) bytes, and a value of at most as many",
        faults: [DomainError.Fault(.labels, "'\(key.prefix(64))' breaks that rule")])
    }
  }
}

extension ManagedBy {
  /// Throws `managedByConfig` for what the config file declares.
  func requireChangeable(_ what: String) throws(DomainError) {
    guard self == .config else { return }
    throw DomainError(
      .managedByConfig, "\(what) is declared in the config file", remedy: "change it there, and start the server again")
  }
}
