import Foundation
import Model

/// A reconcile job, see ``TrackingComparison``: what it puts right is looked at again afterwards.
struct ReconcileWork: JobWork {
  let image: ImageID
  let isPausable = false

  var images: [ImageID] { [image] }

  func claims(in catalog: any CatalogReading) throws -> [JobClaim] {
    [try .image(image, isAlone: true, in: catalog)]
  }

  func run(_ context: JobContext) async -> JobEnd {
    var found: [TrackingComparison.Finding] = []
    do {
      let row = try context.transactions.read { try $0.find(image) }
      found = try await findings(of: row, context)
      for finding in found { context.log(.info, finding.disagreement.detail) }
      let kept = try await kept(found, context)
      let repairs = found.compactMap(\.repair).filter { kept[$0] == nil }
      try await context.live.checkpoint()
      if let order = TrackingRepair(repairs, of: row, by: context.job.id) {
        try await context.engine.repairTracking(order)
      }
      try await takeOff(repairs, context)
      let left = Set(try await findings(of: row, context).map(\.identity))
      return JobEnd(.succeeded, result: result(found, of: row, left: left, kept, context.limits)) { transaction in
        try transaction.announce(repairs, of: row.id)
      }
    } catch {
      return JobEnd(error, of: context.live)
    }
  }

  private func findings(of row: Image, _ context: JobContext) async throws -> [TrackingComparison.Finding] {
    let tracking = try await context.engine.tracking(of: row.location)
    return try context.transactions.read { try TrackingComparison(of: $0.find(row.id), tracking, in: $0) }.findings
  }

  /// Repairs that aren't made, with why: a repository may have the backup that the catalog lacks.
  private func kept(
    _ found: [TrackingComparison.Finding], _ context: JobContext
  ) async throws -> [TrackingComparison.Repair: String] {
    var kept: [TrackingComparison.Repair: String] = [:]
    for repair in found.compactMap(\.repair) {
      guard let (id, checkpoint) = repair.needsScan else { continue }
      let repository = try context.transactions.read { try $0.find(id) }
      do {
        let scan = try await context.engine.scan(repository.location)
        if let backup = scan.backups.first(where: { $0.checkpoint == checkpoint }) {
          kept[repair] = "repository '\(repository.name)' has backup \(backup.id) with the checkpoint: rescan it"
        } else if !scan.unreadable.isEmpty {
          kept[repair] = "repository '\(repository.name)' has backups whose manifests can't be read"
        }
      } catch let error as DomainError {
        kept[repair] = "repository '\(repository.name)' can't be read: \(error.detail)"
      }
      try await context.live.checkpoint()
    }
    return kept
  }

  private func takeOff(_ repairs: [TrackingComparison.Repair], _ context: JobContext) async throws {
    let stale = repairs.compactMap { repair -> (ExportID, BitmapName)? in
      if case .takeOff(let export, let bitmap) = repair { (export, bitmap) } else { nil }
    }
    guard !stale.isEmpty else { return }
    let job = context.job.id
    try await context.transactions.persistently {
      try await context.transactions.write { transaction in
        for (id, bitmap) in stale {
          guard var export = try transaction.catalog.export(id), export.state != .active else { continue }
          export.bitmaps.removeAll { $0.bitmap == bitmap }
          try transaction.update(export, job: job)
        }
      }
    }
  }

  private func result(
    _ found: [TrackingComparison.Finding], of row: Image, left: Set<TrackingComparison.Finding.Identity>,
    _ kept: [TrackingComparison.Repair: String], _ limits: ServiceLimits
  ) -> JobResult {
    let all = found.map { finding in
      var disagreement = finding.disagreement
      disagreement.outcome = left.contains(finding.identity) ? .left : .repaired
      disagreement.why = finding.repair.flatMap { kept[$0] }
      return disagreement
    }
    return .reconciled(
      JobResult.Reconciled(
        image: row.id, imageName: row.name, disagreements: Array(all.prefix(limits.findingsPerResult)),
        disagreementCount: all.count))
  }
}

extension TrackingComparison.Finding {
  struct Identity: Hashable {
    let code: TrackingDisagreement.Code
    let bitmap: String?
    let export: ExportID?
  }

  /// Which one it is, before the repair and after it.
  var identity: Identity {
    Identity(code: disagreement.code, bitmap: disagreement.bitmap, export: disagreement.export)
  }
}

extension TrackingRepair {
  /// Nil if none of the repairs concerns the image.
  fileprivate init?(_ repairs: [TrackingComparison.Repair], of image: Image, by job: JobID) {
    self.init(job: job, image: image.location)
    var concernsImage = false
    for repair in repairs {
      switch repair {
      case .recover, .takeMarksOut: concernsImage = true
      case .removeRecords: (concernsImage, removesLeftRecords) = (true, true)
      case .remove(let name), .removeUnlessStored(let name, _, _):
        concernsImage = true
        removals.append(name)
      case .mergeUnlessStored(let merge, _, _):
        concernsImage = true
        merges.append(merge)
      case .takeOff: break
      }
    }
    guard concernsImage else { return nil }
    // They go with the last bitmap.
    takesMarksOut = true
  }
}

extension CatalogTransaction {
  fileprivate func announce(_ repairs: [TrackingComparison.Repair], of image: ImageID) throws {
    for repair in repairs {
      switch repair {
      case .remove(let name), .removeUnlessStored(let name, _, _): try announce(.bitmapDeleted, name, nil, of: image)
      case .mergeUnlessStored(let merge, _, _):
        try announce(.bitmapDeleted, merge.source, nil, of: image)
        try announce(.bitmapChanged, merge.target, .recording, of: image)
      case .recover, .takeMarksOut, .removeRecords, .takeOff: break
      }
    }
  }
}
