import Foundation
import Model

extension BackupService {
  /// A job that looks at what the image, the catalog and the state folder don't agree on about the image's bitmaps, and
  /// puts right what can be without loss to any chain. `confirm` must be the image's name. The plan tells each
  /// disagreement. Throws `confirmationRequired`, and `imageInUse` unless the image is at rest.
  package func reconcileImage(
    _ reference: Reference<Image>, confirm: String? = nil, _ conditions: ChangeConditions<Job> = ChangeConditions()
  ) async throws -> Answer<Job> {
    try await answering(conditions) {
      var tracking = ImageTracking()
      if conditions.dryRun {
        let image = try transactions.read { catalog in
          let image = try catalog.find(reference)
          try catalog.requireReconcilable(image)
          return image
        }
        tracking = try await engine.tracking(of: image.location)
      }
      return try await submitNew(conditions) { [tracking] view in
        let image = try view.catalog.find(reference)
        try conditions.require(revision: image.revision, of: "image '\(image.name)'")
        let comparison = try TrackingComparison(of: image, tracking, in: view.catalog)
        if !conditions.dryRun {
          try image.requireConfirmation(
            confirm, because: "bitmaps may be taken out of image '\(image.name)', or merged")
        }
        return JobDraft(
          request: .reconcile(image: image.id), links: JobLinks(image: image.id), plan: Self.plan(comparison))
      }
    }
  }

  private static func plan(_ comparison: TrackingComparison) -> Plan {
    let all = comparison.findings.map(\.disagreement)
    return Plan(
      action: "reconcile-image",
      steps: all.compactMap { disagreement in
        disagreement.repair.map { repair in
          disagreement.bitmap.map { "bitmap '\($0)': \(repair)" } ?? repair
        }
      }, warnings: all.filter { $0.repair == nil }.map(\.detail),
      resource: .reconciliation(of: comparison.image.id, all))
  }
}
