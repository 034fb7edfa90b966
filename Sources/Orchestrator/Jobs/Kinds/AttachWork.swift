import Foundation
import Model

/// An attach job: the image is open when it has succeeded, and its exports with it. An image that is attached for its
/// exports is kept attached from then on.
struct AttachWork: JobWork {
  let image: ImageID
  /// Nil for what suits the storage best.
  let cache: CacheMode?
  let isPausable = false

  var images: [ImageID] { [image] }

  func claims(in catalog: any CatalogReading) throws -> [JobClaim] {
    [try .image(image, isAlone: true, in: catalog)]
  }

  func run(_ context: JobContext) async -> JobEnd {
    do {
      let attached = try await context.serving.alone(with: .image(image)) {
        try await context.live.checkpoint()
        let attached = try await attach(context)
        for failure in await context.serving.openExports(of: attached.id, job: context.job.id) {
          context.log(.warning, failure)
        }
        return attached
      }
      let result = JobResult.Attached(
        image: attached.id, imageName: attached.name, virtualSize: attached.virtualSize,
        cache: attached.attachment?.cache)
      return JobEnd(.succeeded, result: .attached(result))
    } catch {
      return JobEnd(error, of: context.live)
    }
  }

  private func attach(_ context: JobContext) async throws -> Image {
    let row = try context.transactions.read { catalog in
      let row = try catalog.find(image)
      try catalog.requireAttachable(row, cache: cache)
      return row
    }
    if row.state == .attached {
      context.log(.info, "image '\(row.name)' is attached for its exports; it stays attached without them")
      return try await context.serving.change(image, job: context.job.id) { $0.attachment?.cause = .request }
    }
    let attached = try await context.serving.attach(
      row, cache: cache ?? row.attachment?.cache, cause: .request, control: context.live, job: context.job.id)
    context.log(.info, "image '\(row.name)' is attached")
    return attached
  }
}
