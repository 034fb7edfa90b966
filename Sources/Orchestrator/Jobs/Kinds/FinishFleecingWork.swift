import Foundation
import Model

/// A finish-fleecing job: the views are gone when it has ended, unless it was refused.
struct FinishFleecingWork: JobWork {
  let fleecing: FleecingID
  let images: [ImageID]
  let outcome: Fleecing.Outcome
  let isPausable = false

  func claims(in catalog: any CatalogReading) throws -> [JobClaim] {
    try images.map { try .image($0, isAlone: false, in: catalog) }
  }

  func run(_ context: JobContext) async -> JobEnd {
    do {
      try await context.serving.fleecings.alone(with: fleecing) {
        try await context.live.checkpoint()
        try await beginFinishing(context)
        await context.engine.end(fleecing)
      }
      context.log(.info, "the views ended")
      let job = context.job.id
      let result = JobResult.FinishedFleecing(fleecing: fleecing, outcome: outcome)
      return JobEnd(.succeeded, result: .finishedFleecing(result)) { [fleecing, outcome] transaction in
        guard var row = try transaction.catalog.fleecing(fleecing), row.state == .finishing else { return }
        row.end(.finished(outcome), at: transaction.now)
        try transaction.update(row, job: job)
      }
    } catch {
      return JobEnd(error, of: context.live)
    }
  }

  /// From here on the job alone ends it.
  private func beginFinishing(_ context: JobContext) async throws {
    let job = context.job.id
    try await context.transactions.persistently {
      try await context.transactions.write { transaction in
        var row = try transaction.catalog.find(fleecing)
        // The answer to the attempt before this one was lost.
        if row.state == .finishing { return }
        try row.requireActive()
        row.state = .finishing
        try transaction.update(row, job: job)
      }
    }
  }
}
