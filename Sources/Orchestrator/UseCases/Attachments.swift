import Foundation
import Model

extension BackupService {
  /// A job that opens the image for its guest. `cache`: nil for what suits the storage best. `confirm` must be the
  /// image's name if registered overlays stand on it, and it isn't attached yet. Throws `confirmationRequired`, and
  /// `imageInUse` if it is attached already, or exported read-only.
  package func attachImage(
    _ reference: Reference<Image>, cache: CacheMode? = nil, confirm: String? = nil,
    _ conditions: ChangeConditions<Job> = ChangeConditions()
  ) async throws -> Answer<Job> {
    try await answering(conditions) {
      // What the rows tell first, then what the storage tells, then the rows again with the job.
      let asked = try transactions.read { catalog in
        let image = try Self.image(reference, conditions, in: catalog)
        try catalog.requireAttachable(image, cache: cache)
        return image
      }
      let overlays = try await overlays(on: asked)
      return try await submitNew(conditions) { view in
        let image = try Self.image(.id(asked.id), conditions, in: view.catalog)
        try view.catalog.requireAttachable(image, cache: cache)
        if !conditions.dryRun { try overlays.requireConfirmation(confirm, toAttach: image) }
        return JobDraft(
          request: .attach(image: image.id, cache: cache), links: JobLinks(image: image.id),
          plan: Self.plan(toAttach: image, cache: cache, overlays))
      }
    }
  }

  private static func plan(toAttach image: Image, cache: CacheMode?, _ overlays: Overlays) -> Plan {
    let step =
      image.state == .attached
      ? "keep image '\(image.name)' attached, also without its exports"
      : "open image '\(image.name)' read-write, and hold its locks until it is detached"
    return Plan(
      action: "attach-image", steps: [step],
      warnings: image.damageWarnings + overlays.warnings(toAttach: image),
      resource: .attachment(of: image.id, cache: cache))
  }

  /// A job that flushes and closes the image. Throws `imageNotAttached`, and `imageInUse` while it has exports.
  package func detachImage(
    _ reference: Reference<Image>, _ conditions: ChangeConditions<Job> = ChangeConditions()
  ) async throws -> Answer<Job> {
    try await submit(conditions) { view in
      let image = try Self.image(reference, conditions, in: view.catalog)
      try view.catalog.requireDetachable(image)
      return JobDraft(
        request: .detach(image: image.id), links: JobLinks(image: image.id),
        plan: Plan(
          action: "detach-image", steps: ["flush image '\(image.name)', close it and give up its locks"],
          resource: .detachment(of: image.id)))
    }
  }

  /// A job that checks the image's own metadata. Throws `imageInUse` for one that is attached, or exported if it is to
  /// be repaired.
  package func checkImage(
    _ reference: Reference<Image>, repairsLeaks: Bool, _ conditions: ChangeConditions<Job> = ChangeConditions()
  ) async throws -> Answer<Job> {
    try await submit(conditions) { view in
      let image = try Self.image(reference, conditions, in: view.catalog)
      try view.catalog.requireCheckable(image, repairsLeaks: repairsLeaks)
      return JobDraft(
        request: .check(image: image.id, repairsLeaks: repairsLeaks),
        links: JobLinks(image: image.id),
        plan: Plan(
          action: "check-image",
          steps: ["check image '\(image.name)'"] + (repairsLeaks ? ["give back clusters that it has lost"] : []),
          resource: .check(of: image.id, repairsLeaks: repairsLeaks)),
        legs: [image.virtualSize])
    }
  }

  private static func image(
    _ reference: Reference<Image>, _ conditions: ChangeConditions<Job>, in catalog: any CatalogReading
  ) throws -> Image {
    let image = try catalog.find(reference)
    try conditions.require(revision: image.revision, of: "image '\(image.name)'")
    return image
  }
}
