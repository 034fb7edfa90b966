import Foundation
import Logging
import Model

/// What happens before the first request, in this order:
///
/// 1. Jobs that weren't ended become `interrupted`: nobody works for them any more.
/// 2. Declared repositories are brought in line with the catalog.
/// 3. Each repository is cleaned up, and tells what became of the backups that were `running`: what it holds whole is
///    complete, for the manifest decides; the rest failed. One that can't be opened becomes `unavailable`.
/// 4. What interrupted restores left beside their targets is removed.
/// 5. Declared images are brought in line with the catalog, with the ids that repositories know them by.
/// 6. Each image is opened once, to see whether it is there. One that isn't doesn't fail the start.
/// 7. Images that were attached are attached again, and what was exported is served again. What can't be is
///    unavailable; an image that somebody else still holds is tried for a while longer.
struct StartUp {
  let service: BackupService
  let declarations: Declarations

  init(_ service: BackupService, _ declarations: Declarations) {
    self.service = service
    self.declarations = declarations
  }

  private var ledger: Ledger { service.ledger }

  func run() async throws {
    try declarations.refuseDuplicates()
    let interrupted = try await interruptJobs()
    try await RepositoryReconciliation(service, declarations.repositories).run()
    try await RepositoryRecovery(service, interrupted).run()
    if interrupted.contains(where: { $0.request.kind == .restore }) { await removeRestoreLeftovers() }
    try await ImageReconciliation(service, declarations).run()
    await lookAtImages()
    try await serveAgain()
  }

  /// Returns the jobs as they were.
  private func interruptJobs() async throws -> [Job] {
    let jobs = try ledger.read { try liveJobs(in: $0) }
    for batch in jobs.batches(of: service.limits.mergeBatch) {
      try await ledger.write { catalog, now in
        for var job in batch {
          job.state = .interrupted
          job.error = .interrupted
          job.finishedAt = now
          job.waitingFor = nil
          (job.progress.rate, job.progress.eta) = (0, nil)
          try catalog.announce(.jobChanged, catalog.update(job), at: now)
        }
      }
    }
    if !jobs.isEmpty {
      service.logger.notice("jobs were interrupted by the last stop", metadata: ["jobs": "\(jobs.count)"])
    }
    return jobs
  }

  /// They take room and harm nobody, so that failing to remove them doesn't fail the start.
  private func removeRestoreLeftovers() async {
    do {
      for file in try await service.engine.removeRestoreLeftovers(liveJobs: []) {
        service.logger.notice("removed what an interrupted restore left", metadata: ["file": "\(file)"])
      }
    } catch {
      service.logger.warning("what interrupted restores left stays there", metadata: ["error": "\(error)"])
    }
  }

  private func lookAtImages() async {
    for batch in ((try? images()) ?? []).filter(\.isAtRest).batches(of: service.limits.concurrentLooks) {
      await withTaskGroup(of: Void.self) { group in
        for image in batch { group.addTask { await look(at: image) } }
      }
    }
  }

  private func images() throws -> [Image] {
    try ledger.read { catalog in try allPages { try catalog.images($0) } }
  }

  private func serveAgain() async throws {
    let serving = service.serving
    try await serving.lock.alone {
      let failures = try await attachAgain()
      let obstacles = failures.mapValues { "its image couldn't be attached: \($0.detail)" }
      let exports = try ledger.read { catalog in try allPages { try catalog.exports(ExportFilter(), $0) } }
      for export in exports { await serving.open(export.id, obstacles: obstacles) }
      serving.attachWhenUnlocked(failures.filter { $0.value.code == .imageLocked }.map(\.key))
    }
  }

  /// Returns why those that couldn't be aren't attached.
  private func attachAgain() async throws -> [ImageID: DomainError] {
    var failures: [ImageID: DomainError] = [:]
    for batch in try images().filter({ !$0.isAtRest }).batches(of: service.limits.concurrentLooks) {
      await withTaskGroup(of: (Image, DomainError?).self) { group in
        for image in batch { group.addTask { (image, await service.serving.attachAgain(image)) } }
        for await (image, error) in group {
          guard let error else { continue }
          failures[image.id] = error
          service.logger.warning(
            "an image can't be attached", metadata: ["image": "\(image.name)", "error": "\(error)"])
        }
      }
    }
    return failures
  }

  private func look(at image: Image) async {
    do {
      let inspection = try await service.engine.inspect(image.location)
      await service.note(.found(virtualSize: inspection.virtualSize), of: image.id)
    } catch {
      service.logger.warning(
        "an image can't be opened", metadata: ["image": "\(image.name)", "error": "\(error)"])
      await service.note(ImageSighting(error), of: image.id)
    }
  }
}

extension Declarations {
  /// A name, a folder or a source may be declared once.
  func refuseDuplicates() throws(DomainError) {
    try Self.refuseDuplicates(repositories.map(\.name.text), "repository name")
    try Self.refuseDuplicates(repositories.map { comparablePath($0.path) }, "repository path")
    try Self.refuseDuplicates(images.map(\.name.text), "image name")
    try Self.refuseDuplicates(images.map { comparablePath($0.source.place) }, "image source")
  }

  private static func refuseDuplicates(_ texts: [String], _ what: String) throws(DomainError) {
    var seen: Set<String> = []
    for text in texts where !seen.insert(text).inserted {
      throw DomainError(.invalidField, "the config declares the \(what) '\(text)' twice", remedy: "take one out")
    }
  }
}

extension Array {
  func batches(of count: Int) -> [ArraySlice<Element>] {
    stride(from: 0, to: self.count, by: count).map { self[$0..<Swift.min($0 + count, self.count)] }
  }
}
