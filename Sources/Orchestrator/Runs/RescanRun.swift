import Foundation
import Model

/// A rescan job: merges what a repository holds into the catalog. It has the repository to itself.
struct RescanRun: Sendable {
  private let runner: JobRunner
  private let job: Job
  private let repository: RepositoryID
  private let live: LiveJob

  init(_ runner: JobRunner, _ job: Job, _ repository: RepositoryID, _ live: LiveJob) {
    self.runner = runner
    self.job = job
    self.repository = repository
    self.live = live
  }

  func run() async -> JobEnd {
    do {
      let repository = try runner.ledger.read { try $0.find(self.repository) }
      live.log(.info, "reading the manifests of repository '\(repository.name)'")
      let scan = try await runner.engine.scan(repository.location)
      try await live.checkpoint()
      let newcomers = scan.images.filter { record in (try? runner.ledger.read { try $0.image(record.id) }) == nil }
      let inspections = await looks(at: newcomers)
      var known = try KnownRows.read(of: repository.id, from: runner.ledger)
      await known.sources.compare(
        with: newcomers.map(\.source), by: ImageLooks(engine: runner.engine, limits: runner.limits),
        patience: runner.limits.comparisonPatience)
      var merge = ScanMerge(
        scan, repository: repository.id, job: job.id, inspections: inspections, known: known)
      while let step = merge.nextStep(upTo: runner.limits.mergeBatch) {
        try await live.checkpoint()
        let part = try await runner.ledger.persistently { try await commit(step) }
        merge.tally.add(part)
      }
      for finding in merge.tally.findings { live.log(.warning, finding) }
      let tally = merge.tally
      let (job, access) = (job.id, try await runner.engine.access(to: repository.location))
      return JobEnd(.succeeded, result: result(tally, of: repository)) { transaction in
        try transaction.note(RepositoryFinding(access), of: repository.id, job: job)
      }
    } catch {
      return JobEnd(error, of: live)
    }
  }

  private func commit(_ step: ScanMerge.Step) async throws -> ScanMerge.Tally {
    try await runner.ledger.write { transaction in try step.apply(in: transaction) }
  }

  /// What the images that the catalog doesn't know look like now, as far as they can be opened.
  private func looks(at records: [ImageRecord]) async -> [ImageID: ImageInspection] {
    var inspections: [ImageID: ImageInspection] = [:]
    for record in records {
      let location = ImageLocation(source: record.source, format: record.format)
      inspections[record.id] = try? await runner.engine.inspect(location)
    }
    return inspections
  }

  private func result(_ tally: ScanMerge.Tally, of repository: Repository) -> JobResult {
    .rescanned(
      JobResult.Rescanned(
        repository: repository.id, repositoryName: repository.name, imagesAdded: tally.imagesAdded,
        chainsAdded: tally.chainsAdded, backupsAdded: tally.backupsAdded, backupsChanged: tally.backupsChanged,
        backupsMissing: tally.backupsMissing,
        findings: Array(tally.findings.prefix(runner.limits.findingsPerResult)), findingCount: tally.findings.count))
  }
}
