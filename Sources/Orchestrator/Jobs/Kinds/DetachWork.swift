import Foundation
import Model

/// A detach job: the image is flushed and closed when it has ended, however it did, unless it was refused.
struct DetachWork: JobWork {
  let image: ImageID
  let isPausable = false

  var images: [ImageID] { [image] }

  func claims(in catalog: any CatalogReading) throws -> [JobClaim] {
    [try .image(image, isAlone: true, in: catalog)]
  }

  func run(_ context: JobContext) async -> JobEnd {
    do {
      let detached = try await context.serving.alone(with: .image(image)) {
        try await context.live.checkpoint()
        return try await context.serving.detach(image, job: context.job.id)
      }
      context.log(.info, "image '\(detached.name)' is detached")
      let result = JobResult.Detached(image: detached.id, imageName: detached.name)
      return JobEnd(.succeeded, result: .detached(result))
    } catch {
      return JobEnd(error, of: context.live)
    }
  }
}
