import Model
import Orchestrator

extension RequestFields {
  /// The body that begins a fleecing.
  func fleecingDraft(imageLimit: Int) throws(DomainError) -> FleecingDraft {
    let images = references("images", to: Image.self, atMost: imageLimit)
    let listen = object("listen").flatMap(exportAddress)
    let tls = choice("tls", of: ExportTLS.self, required: false)
    let release = choice("release", of: Fleecing.Release.self, required: false)
    let access = choice("access", of: Fleecing.Access.self, required: false)
    let since = isNull("since") ? nil : object("since", required: false).flatMap(base)
    let tracker = fleecingTracker()
    let lifetime = lifetime(required: false)
    try finish()
    guard let images, let listen else { throw Self.incomplete }
    return FleecingDraft(
      images: images, listen: listen, tls: tls, release: release ?? .none, access: access ?? .all, since: since,
      tracker: tracker ?? Fleecing.standardTracker,
      lifetime: lifetime ?? FleecingDraft.standardLifetime)
  }

  /// The body that renews one.
  func renewal() throws(DomainError) -> Int {
    let lifetime = lifetime(required: false)
    try finish()
    return lifetime ?? FleecingDraft.standardLifetime
  }

  /// The body that finishes one.
  func fleecingOutcome() throws(DomainError) -> (outcome: Fleecing.Outcome, label: String?) {
    let outcome = choice("outcome", of: Fleecing.Outcome.self)
    let label = string("checkpoint", required: false)
    if let label, !(1...Self.longestLabel).contains(label.utf8.count) {
      refuse("checkpoint", "must have 1 to \(Self.longestLabel) bytes")
    }
    try finish()
    guard let outcome else { throw Self.incomplete }
    return (outcome, label)
  }

  private static let longestLabel = 255

  /// One of the three.
  private func base(_ since: RequestFields) -> Fleecing.Base? {
    let named = ["bitmap", "backup", "checkpoint"].filter { since.has($0) }
    guard named.count == 1 else {
      refuse("since", "must be null, or have one of 'bitmap', 'backup' and 'checkpoint'")
      return nil
    }
    switch named[0] {
    case "bitmap": return since.bitmapName("bitmap").map { .bitmap($0) }
    case "backup": return since.id("backup", of: Backup.self).map { .backup($0) }
    default: return since.id("checkpoint", of: FleecingCheckpoint.self).map { .checkpoint($0.ulid) }
    }
  }

  private func fleecingTracker() -> TrackerName? {
    guard let text = string("tracker", required: false) else { return nil }
    let tracker = TrackerName(text)
    if tracker == nil { refuse("tracker", "isn't one that a fleecing may have: \(TrackerName.rule)") }
    return tracker
  }

  /// The body that tells what its reader is done with.
  func releasedExtents() throws(DomainError) -> (image: Reference<Image>, extents: [FleecedExtent]) {
    let image = reference("image", to: Image.self)
    let extents = list("extents", atMost: BackupService.releasedExtents, of: "objects {offset, length}") {
      item -> FleecedExtent? in
      guard case .fields(let fields) = item else { return nil }
      let offset = fields.count("offset", unit: "bytes")
      let length = fields.count("length", unit: "bytes")
      guard let offset, let length else { return nil }
      return FleecedExtent(offset: offset, length: length)
    }
    try finish()
    guard let image, let extents else { throw Self.incomplete }
    return (image, extents)
  }

  private func lifetime(required: Bool) -> Int? {
    guard let seconds = count("expiresIn", unit: "seconds", required: required) else { return nil }
    let lifetimes = FleecingDraft.lifetimes
    guard let lifetime = Int(exactly: seconds), lifetimes.contains(lifetime) else {
      refuse("expiresIn", "must be from \(lifetimes.lowerBound) to \(lifetimes.upperBound) seconds")
      return nil
    }
    return lifetime
  }
}
