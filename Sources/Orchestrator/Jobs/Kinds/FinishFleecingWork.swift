import Foundation
import Model

/// A finish-fleecing job: the views are gone when it has ended, unless it was refused.
///
/// With success the checkpoint is in the catalog before the image's bitmap counts from it: whatever a crash leaves of the
/// two, a bitmap that an image has is known.
struct FinishFleecingWork: JobWork {
  let fleecing: FleecingID
  let images: [ImageID]
  let outcome: Fleecing.Outcome
  /// Of the checkpoint.
  let label: String?
  let isPausable = false

  func claims(in catalog: any CatalogReading) throws -> [JobClaim] {
    try images.map { try .image($0, isAlone: false, in: catalog) }
  }

  func run(_ context: JobContext) async -> JobEnd {
    do {
      return try await context.serving.fleecings.alone(with: fleecing) {
        try await context.live.checkpoint()
        let checkpoint = try await beginFinishing(context)
        return await finish(checkpoint, context)
      }
    } catch {
      return JobEnd(error, of: context.live)
    }
  }

  private func finish(_ checkpoint: ULID?, _ context: JobContext) async -> JobEnd {
    do {
      switch outcome {
      case .success: try await context.engine.finish(fleecing)
      case .failure: await context.engine.end(fleecing)
      }
    } catch {
      let problem = ProblemDetails(error)
      return JobEnd(.failed(problem)) { [self] in try end(.broken(problem), context.job.id, in: $0) }
    }
    context.log(.info, checkpoint.map { "the views ended; checkpoint \($0) is set" } ?? "the views ended")
    let result = JobResult.FinishedFleecing(
      fleecing: fleecing, outcome: outcome, checkpoint: checkpoint, label: checkpoint == nil ? nil : label)
    return JobEnd(.succeeded, result: .finishedFleecing(result)) { [self] in
      try end(.finished(outcome), context.job.id, in: $0)
    }
  }

  private func end(_ end: FleecingEnd, _ job: JobID, in transaction: CatalogTransaction) throws {
    guard var row = try transaction.catalog.fleecing(fleecing), row.state == .finishing else { return }
    row.end(end, at: transaction.now)
    try transaction.update(row, job: job)
  }

  /// From here on the job alone ends it. Returns the checkpoint that is to be set.
  private func beginFinishing(_ context: JobContext) async throws -> ULID? {
    let job = context.job.id
    return try await context.transactions.persistently {
      try await context.transactions.write { transaction in
        var row = try transaction.catalog.find(fleecing)
        // The answer to the attempt before this one was lost.
        if row.state != .finishing {
          try row.requireActive()
          (row.state, row.label) = (.finishing, outcome == .success ? label : nil)
          try transaction.update(row, job: job)
          if outcome == .success { for checkpoint in row.newCheckpoints { try transaction.insert(checkpoint) } }
        }
        return outcome == .success ? row.checkpoint : nil
      }
    }
  }
}
