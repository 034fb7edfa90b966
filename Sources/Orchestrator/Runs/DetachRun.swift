import Foundation
import Model

/// A detach job: the image is flushed and closed when it has ended, however it did, unless it was refused.
struct DetachRun: Sendable {
  private let runner: JobRunner
  private let image: ImageID
  private let live: LiveJob

  init(_ runner: JobRunner, _ image: ImageID, _ live: LiveJob) {
    self.runner = runner
    self.image = image
    self.live = live
  }

  func run() async -> JobEnd {
    do {
      let detached = try await runner.serving.lock.alone(with: .image(image)) {
        try await live.checkpoint()
        return try await runner.serving.detach(image, job: live.job)
      }
      live.log(.info, "image '\(detached.name)' is detached")
      let result = JobResult.Detached(image: detached.id, imageName: detached.name)
      return JobEnd(.succeeded, result: .detached(result))
    } catch {
      return JobEnd(error, of: live)
    }
  }
}
