import Foundation
import Model

/// A fleece job: the views are served when it has succeeded.
struct FleeceWork: JobWork {
  let fleecing: FleecingID
  let images: [ImageID]
  /// Seconds from the moment to the expiry.
  let lifetime: Int
  let isPausable = false

  func claims(in catalog: any CatalogReading) throws -> [JobClaim] {
    try images.map { try .image($0, isAlone: false, in: catalog) }
  }

  func run(_ context: JobContext) async -> JobEnd {
    do {
      try await context.serving.fleecings.alone(with: fleecing) {
        try await context.live.checkpoint()
        let order = try context.transactions.read { try self.order(in: $0) }
        let receipt = try await context.engine.fleece(order, control: context.live)
        do {
          try await begin(receipt, order.checkpoint, context)
        } catch {
          await context.engine.end(fleecing)
          throw error
        }
      }
      context.log(.info, "the views are served")
      return JobEnd(.succeeded, result: .fleeced(JobResult.Fleeced(fleecing: fleecing)))
    } catch {
      let problem = ProblemDetails(error)
      return JobEnd(error, of: context.live) { [self] transaction in
        try giveUp(context.job.id, problem, in: transaction)
      }
    }
  }

  private func order(in catalog: any CatalogReading) throws -> FleecingOrder {
    let row = try catalog.find(fleecing)
    let parts = try row.images.map { part in
      let image = try catalog.find(part.image)
      try catalog.requireBackable(image)
      return FleecingOrder.Part(
        image: image.id, imageName: part.imageName, location: image.location, exportName: row.exportName(of: part),
        base: try catalog.base(row.since, of: image))
    }
    return FleecingOrder(
      fleecing: row.id, parts: parts, listen: row.listen, tls: row.tls, release: row.release, access: row.access,
      contextName: row.since?.contextName, tracker: row.tracker)
  }

  private func begin(_ receipt: FleecingReceipt, _ checkpoint: ULID, _ context: JobContext) async throws {
    let job = context.job.id
    try await context.transactions.persistently {
      try await context.transactions.write { transaction in
        var row = try transaction.catalog.find(fleecing)
        // The answer to the attempt before this one was lost.
        guard row.state == .starting else { return }
        row.begin(receipt, checkpoint: checkpoint, lifetime: lifetime, at: transaction.now)
        try transaction.update(row, job: job)
      }
    }
  }

  func giveUp(_ job: JobID, why: String, in transaction: CatalogTransaction) throws {
    try giveUp(job, ProblemDetails(DomainError(.cancelled, why)), in: transaction)
  }

  private func giveUp(_ job: JobID, _ problem: ProblemDetails, in transaction: CatalogTransaction) throws {
    guard var row = try transaction.catalog.fleecing(fleecing), row.state == .starting else { return }
    row.end(.broken(problem), at: transaction.now)
    try transaction.update(row, job: job)
  }
}
