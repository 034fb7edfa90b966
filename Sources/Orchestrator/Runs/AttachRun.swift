import Foundation
import Model

/// An attach job: the image is open when it has succeeded, and its exports with it. An image that is attached for its
/// exports is kept attached from then on.
struct AttachRun: Sendable {
  private let runner: JobRunner
  private let image: ImageID
  private let cache: CacheMode?
  private let live: LiveJob

  init(_ runner: JobRunner, _ image: ImageID, _ cache: CacheMode?, _ live: LiveJob) {
    self.runner = runner
    self.image = image
    self.cache = cache
    self.live = live
  }

  private var serving: Serving { runner.serving }

  func run() async -> JobEnd {
    do {
      let attached = try await serving.lock.alone(with: .image(image)) {
        try await live.checkpoint()
        let attached = try await attach()
        for failure in await serving.openExports(of: attached.id, job: live.job) { live.log(.warning, failure) }
        return attached
      }
      let result = JobResult.Attached(
        image: attached.id, imageName: attached.name, virtualSize: attached.virtualSize,
        cache: attached.attachment?.cache)
      return JobEnd(.succeeded, result: .attached(result))
    } catch {
      return JobEnd(error, of: live)
    }
  }

  private func attach() async throws -> Image {
    let row = try runner.ledger.read { catalog in
      let row = try catalog.find(image)
      try catalog.requireAttachable(row, cache: cache)
      return row
    }
    if row.state == .attached {
      live.log(.info, "image '\(row.name)' is attached for its exports; it stays attached without them")
      return try await serving.change(image, job: live.job) { $0.attachment?.cause = .request }
    }
    let attached = try await serving.attach(
      row, cache: cache ?? row.attachment?.cache, cause: .request, control: live, job: live.job)
    live.log(.info, "image '\(row.name)' is attached")
    return attached
  }
}
