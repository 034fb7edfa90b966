import Foundation
import Model

/// A rescan job: merges what a repository holds into the catalog. It has the repository to itself.
struct RescanWork: JobWork {
  let repository: RepositoryID
  let isPausable = false
  let findingOfSuccess: RepositoryFinding? = .reached

  func repository(in catalog: any CatalogReading) -> RepositoryID? { repository }

  func claims(in catalog: any CatalogReading) throws -> [JobClaim] {
    [try .repository(repository, isAlone: true, in: catalog)]
  }

  func run(_ context: JobContext) async -> JobEnd {
    do {
      let repository = try context.transactions.read { try $0.find(self.repository) }
      context.log(.info, "reading the manifests of repository '\(repository.name)'")
      let scan = try await context.engine.scan(repository.location)
      try await context.live.checkpoint()
      let newcomers = scan.images.filter { record in (try? context.transactions.read { try $0.image(record.id) }) == nil
      }
      let inspections = await looks(at: newcomers, by: context.engine)
      var known = try KnownRows.read(of: repository.id, from: context.transactions)
      await known.sources.compare(
        with: newcomers.map(\.source),
        by: ImageLooks(engine: context.engine, limits: context.limits, time: context.transactions.time),
        timeout: context.limits.comparisonTimeout)
      var merge = ScanMerge(
        scan, repository: repository.id, job: context.job.id, inspections: inspections, known: known)
      while let step = merge.nextStep(upTo: context.limits.mergeBatch) {
        try await context.live.checkpoint()
        let part = try await context.transactions.persistently { try await commit(step, context) }
        merge.tally.add(part)
      }
      for finding in merge.tally.findings { context.log(.warning, finding) }
      let tally = merge.tally
      let (job, access) = (context.job.id, try await context.engine.access(to: repository.location))
      return JobEnd(.succeeded, result: result(tally, of: repository, context.limits)) { transaction in
        try transaction.note(RepositoryFinding(access), of: repository.id, job: job)
      }
    } catch {
      return JobEnd(error, of: context.live)
    }
  }

  private func commit(_ step: ScanMerge.Step, _ context: JobContext) async throws -> ScanMerge.Tally {
    try await context.transactions.write { transaction in try step.apply(in: transaction) }
  }

  /// What the images that the catalog doesn't know look like now, as far as they can be opened.
  private func looks(at records: [ImageRecord], by engine: any BlockEngine) async -> [ImageID: ImageInspection] {
    var inspections: [ImageID: ImageInspection] = [:]
    for record in records {
      let location = ImageLocation(source: record.source, format: record.format)
      inspections[record.id] = try? await engine.inspect(location)
    }
    return inspections
  }

  private func result(_ tally: ScanMerge.Tally, of repository: Repository, _ limits: ServiceLimits) -> JobResult {
    .rescanned(
      JobResult.Rescanned(
        repository: repository.id, repositoryName: repository.name, imagesAdded: tally.imagesAdded,
        chainsAdded: tally.chainsAdded, backupsAdded: tally.backupsAdded, backupsChanged: tally.backupsChanged,
        backupsMissing: tally.backupsMissing,
        findings: Array(tally.findings.prefix(limits.findingsPerResult)), findingCount: tally.findings.count))
  }
}
