import Foundation
import Model

/// What an image has of its tracking beside what the catalog counts on, and what would put it right.
///
/// A chain goes on from a bitmap whose checkpoint one of its backups has. So a repair removes a tracker's bitmap only
/// where a newer one counts, or where no backup can have its checkpoint: that is told only of a line with the name of a
/// repository that is registered here, after its manifests were read (``Repair/needsScan``). Lines of other names may
/// go on in a repository of another server.
struct TrackingComparison {
  let image: Image
  let tracking: ImageTracking
  /// The newest complete backup of each line.
  let lines: [Backup]
  /// Those of the image's complete backups, and of its fleecings.
  let checkpoints: Set<ULID>
  let exports: [Export]
  /// All that are registered.
  let repositories: [Repository]

  /// What a repair does.
  enum Repair: Hashable, Sendable {
    case recover, takeMarksOut, removeRecords
    case remove(BitmapName)
    /// Unless this repository has a backup with the checkpoint.
    case removeUnlessStored(BitmapName, ULID, in: RepositoryID)
    case mergeUnlessStored(TrackingRepair.Merge, ULID, in: RepositoryID)
    case takeOff(ExportID, BitmapName)

    /// The repository whose manifests must be read first, and the checkpoint that none of them may have.
    var needsScan: (repository: RepositoryID, checkpoint: ULID)? {
      switch self {
      case .removeUnlessStored(_, let checkpoint, let repository),
        .mergeUnlessStored(_, let checkpoint, let repository):
        (repository, checkpoint)
      case .recover, .takeMarksOut, .removeRecords, .remove, .takeOff: nil
      }
    }
  }

  struct Finding: Hashable, Sendable {
    var disagreement: TrackingDisagreement
    var repair: Repair?
  }

  /// In the order of trackers' and exports' names.
  var findings: [Finding] {
    imageFindings + trackerFindings + missingTrackers + exportFindings
  }

  // MARK: The image as a whole

  private var imageFindings: [Finding] {
    var findings: [Finding] = []
    if tracking.awaitsRecovery {
      findings.append(
        finding(
          .recoveryPending,
          "the server was killed while the image was open to be written; what its bitmaps missed was recorded",
          "add what was recorded to the bitmaps", .recover))
    }
    if tracking.isMarked, !tracking.awaitsRecovery, !tracking.bitmaps.contains(where: \.isEnabled) {
      findings.append(
        finding(
          .marksLeft,
          "nothing is recorded in the image, and it still carries what vouches for a record (the bitmap cobweb.witness, "
            + "or the header extension)", "take them out of the image", .takeMarksOut))
    }
    if tracking.leftRecordCount > 0 {
      let what = tracking.leftRecordCount == 1 ? "a record" : "\(tracking.leftRecordCount) records"
      findings.append(
        finding(
          .recordsLeft, "the state folder holds \(what) of the image's changes that nothing goes by any more",
          "remove the files", .removeRecords))
    }
    return findings
  }

  private func finding(
    _ code: TrackingDisagreement.Code, bitmap: BitmapName? = nil, export: ExportID? = nil, _ detail: String,
    _ words: String? = nil, _ repair: Repair? = nil
  ) -> Finding {
    Finding(
      disagreement: TrackingDisagreement(code, bitmap: bitmap, export: export, detail, repair: words), repair: repair)
  }

  // MARK: Trackers

  private struct TrackerBitmap {
    let name: TrackerBitmapName
    let bitmap: ImageTracking.Bitmap

    var isUsable: Bool { bitmap.isEnabled && bitmap.flaw == nil }
  }

  /// The bitmaps of each tracker, the newest first.
  private var trackers: [(name: TrackerName, bitmaps: [TrackerBitmap])] {
    let all = tracking.bitmaps.compactMap { bitmap in
      TrackerBitmapName(bitmap.name.bytes).map { TrackerBitmap(name: $0, bitmap: bitmap) }
    }
    return Dictionary(grouping: all, by: \.name.tracker).sorted { $0.key.text < $1.key.text }
      .map { ($0.key, $0.value.sorted { $0.name.checkpoint > $1.name.checkpoint }) }
  }

  private var trackerFindings: [Finding] {
    trackers.flatMap { tracker, bitmaps in
      let (newest, older) = (bitmaps[0], bitmaps.dropFirst())
      if newest.name.checkpoint == TrackerBitmapName.noCheckpoint {
        return [unusable(newest, "a backup found that it had missed a change")]
      }
      // Its recovery comes first.
      if tracking.awaitsRecovery, newest.bitmap.flaw != nil { return [] }
      guard newest.isUsable else {
        return [unusable(newest, newest.bitmap.flaw ?? "it is disabled, so that it misses changes")]
      }
      guard checkpoints.contains(newest.name.checkpoint) else { return unknown(newest, older.first, of: tracker) }
      return older.map { old in
        finding(
          .trackerDoubled, bitmap: old.bitmap.name,
          "tracker '\(tracker)' has a newer bitmap, which its next backup goes by", "remove it from the image",
          .remove(old.bitmap.name))
      }
    }
  }

  private func unusable(_ tracker: TrackerBitmap, _ why: String) -> Finding {
    finding(
      .trackerUnusable, bitmap: tracker.bitmap.name,
      "the next backup of tracker '\(tracker.name.tracker)' doesn't go by this bitmap: \(why). It compares by hash and "
        + "sets a new one")
  }

  /// The newest bitmap counts from a backup that the catalog doesn't have.
  private func unknown(_ newest: TrackerBitmap, _ older: TrackerBitmap?, of tracker: TrackerName) -> [Finding] {
    let (name, checkpoint) = (newest.bitmap.name, newest.name.checkpoint)
    let what = "tracker '\(tracker)' counts from checkpoint \(checkpoint), which no complete backup of the catalog has"
    guard let repository = repositories.first(where: { TrackerName.standard(of: $0.id) == tracker }) else {
      return [
        finding(
          .checkpointUnknown, bitmap: name,
          "\(what). It may belong to another server, or to a repository that isn't registered here: delete the tracker "
            + "if nothing backs up by it")
      ]
    }
    let condition = "unless repository '\(repository.name)' has a backup with the checkpoint"
    if let older, older.bitmap.flaw == nil, checkpoints.contains(older.name.checkpoint) {
      let merge = TrackingRepair.Merge(source: name, target: older.bitmap.name)
      return [
        finding(
          .trackerDoubled, bitmap: name,
          "\(what), and an older bitmap counts from one that it has: a backup that ended early",
          "merge it into \(older.name.text), \(condition)",
          .mergeUnlessStored(merge, checkpoint, in: repository.id))
      ]
    }
    return [
      finding(
        .checkpointUnknown, bitmap: name, "\(what): the next backup compares by hash",
        "remove it from the image, \(condition)", .removeUnlessStored(name, checkpoint, in: repository.id))
    ]
  }

  private var missingTrackers: [Finding] {
    let there = Set(trackers.map(\.name)).union(tracking.sidecars)
    return lines.compactMap { backup in
      guard let tracker = backup.tracker, let checkpoint = backup.checkpoint, !there.contains(tracker) else {
        return nil
      }
      return finding(
        .trackerMissing,
        "backup \(backup.id) set checkpoint \(checkpoint) for tracker '\(tracker)', and the image has no bitmap of it: the "
          + "next backup compares by hash and sets a new one")
    }
  }

  // MARK: Exports

  private var exportFindings: [Finding] {
    let there = Set(tracking.bitmaps.map(\.name))
    return exports.sorted { $0.name.text < $1.name.text }.flatMap { export in
      export.bitmaps.filter { !there.contains($0.bitmap) }.map { shown in
        finding(
          .exportedBitmapMissing, bitmap: shown.bitmap, export: export.id,
          "export '\(export.name)' shows bitmap \(shown.bitmap.quoted), and the image doesn't have it",
          "take it off the export", .takeOff(export.id, shown.bitmap))
      }
    }
  }
}

extension TrackingComparison {
  /// - Throws: `imageInUse` unless the image is at rest.
  init(of image: Image, _ tracking: ImageTracking, in catalog: any CatalogReading) throws {
    try catalog.requireReconcilable(image)
    self.image = image
    self.tracking = tracking
    lines = try catalog.newestBackups(of: image.id)
    checkpoints = Set(
      try allPages { try catalog.checkpoints(of: image.id, $0) }.filter { $0.state == .complete }
        .compactMap(\.checkpoint) + (try catalog.fleecingCheckpoints(of: image.id)).map(\.id))
    exports = try allPages { try catalog.exports(ExportFilter(image: image.id), $0) }
    repositories = try allPages { try catalog.repositories($0) }
  }
}

extension CatalogReading {
  /// Throws `imageInUse` while it is attached, or an export has it open.
  func requireReconcilable(_ image: Image) throws {
    try require(.rest, of: image)
    try requireUnserved(image, onlyActive: true)
  }
}
