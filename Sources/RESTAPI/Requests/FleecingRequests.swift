import Model
import Orchestrator

extension RequestFields {
  /// The body that begins a fleecing.
  func fleecingDraft(imageLimit: Int) throws(DomainError) -> FleecingDraft {
    let images = references("images", to: Image.self, atMost: imageLimit)
    let listen = object("listen").flatMap(exportAddress)
    let tls = choice("tls", of: ExportTLS.self, required: false)
    let release = choice("release", of: Fleecing.Release.self, required: false)
    let lifetime = lifetime(required: false)
    try finish()
    guard let images, let listen else { throw Self.incomplete }
    return FleecingDraft(
      images: images, listen: listen, tls: tls, release: release ?? .none,
      lifetime: lifetime ?? FleecingDraft.standardLifetime)
  }

  /// The body that renews one.
  func renewal() throws(DomainError) -> Int {
    let lifetime = lifetime(required: false)
    try finish()
    return lifetime ?? FleecingDraft.standardLifetime
  }

  /// The body that finishes one.
  func fleecingOutcome() throws(DomainError) -> Fleecing.Outcome {
    let outcome = choice("outcome", of: Fleecing.Outcome.self)
    try finish()
    guard let outcome else { throw Self.incomplete }
    return outcome
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
