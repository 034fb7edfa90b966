import Bitmaps
import BlockCore
import EventLoops
import Failures
import Model
import Qcow2
import Repositories

// How a tracker goes on when the backup that it counts from is deleted: what that backup stored is added to what has
// changed since, and the sum counts from its parent. The bitmap is replaced in one durable step, while the backup is still
// there: a crash in between leaves one that counts from a backup that is.
extension LocalEngine {
  package func returnCheckpoint(_ order: CheckpointReturn) async -> CheckpointReturn.Outcome {
    guard order.image.format == .qcow2, case .file = order.image.source else { return .unconcerned }
    do {
      return try await onLoop(in: order.backup.repository.lane) { [self] loop in
        let repository = try await open(order.backup.repository, on: loop)
        let (backup, parent) = (try await repository.stored(order.backup), try await repository.stored(order.parent))
        guard let checkpoint = backup.manifest.checkpoint else { return .unconcerned }
        let use = ImageUse(
          .request("the deletion of backup \(order.backup.backup)"), needs: order.isRehearsal ? .read : .alone,
          isPassing: true)
        if order.isRehearsal {
          let image = try await opener(on: loop).open(order.image, for: use)
          return try await closing([image.device]) {
            try await tracker(order.tracker, at: checkpoint, in: image, over: parent.manifest).outcome
          }
        }
        let graph = try await opener(on: loop).openToWrite(
          order.image, tracking: .unchanged(because: "only a bitmap is stored"), for: use)
        return try await closing([graph.slot]) {
          let found = try await tracker(order.tracker, at: checkpoint, in: graph.image, over: parent.manifest)
          guard case .found(let stored, let target) = found else { return found.outcome }
          let sum = try await sum(of: stored, backup, parent)
          try await telling(about: graph.name) {
            try await store(sum, as: target, insteadOf: checkpoint, of: order.tracker, graph)
          }
          return .returned
        }
      }
    } catch {
      return .impossible((error as? DomainError)?.detail ?? "\(error)")
    }
  }

  private enum CountingTracker {
    case found(StoredTracker, parent: Manifest)
    case none
    case unusable(String)

    var outcome: CheckpointReturn.Outcome {
      switch self {
      case .found: .returned
      case .none: .unconcerned
      case .unusable(let why): .impossible(why)
      }
    }
  }

  /// The image's tracker, if it counts from the checkpoint and could count from the parent's.
  nonisolated(nonsending)
    private func tracker(
      _ name: TrackerName, at checkpoint: ULID, in image: OpenImage, over parent: Manifest
    ) async throws -> CountingTracker
  {
    let finding = try await telling(about: image.name) { try await StoredTracker.find(name, in: image) }
    switch finding {
    case .missing(.bitmapMissing, _): return .none
    case .missing(_, let why): return .unusable(why)
    case .found(let stored):
      guard stored.checkpoint == checkpoint else { return .none }
      guard parent.checkpoint != nil, let marks = parent.marks, !marks.isEmpty else {
        return .unusable("backup \(parent.backup) has no checkpoint")
      }
      guard UInt64(parent.granularity ?? 0) == stored.bitmap.granularity else {
        return .unusable("the bitmap of backup \(parent.backup) had another granularity")
      }
      guard parent.virtualSize <= image.device.byteCount, parent.mixture != true else {
        return .unusable("nothing can be built on backup \(parent.backup)")
      }
      return .found(stored, parent: parent)
    }
  }

  /// What has changed since the parent: since the backup, and between the two.
  nonisolated(nonsending)
    private func sum(
      of tracker: StoredTracker, _ backup: StoredBackup, _ parent: StoredBackup
    ) async throws -> DirtyBitmap
  {
    var sum = tracker.bitmap
    for mark in parent.manifest.marks ?? [] { sum.set(ByteRange(offset: mark * sum.granularity, length: 1)) }
    return try await changes(sum, of: backup, since: parent)
  }

  nonisolated(nonsending)
    private func store(
      _ bitmap: DirtyBitmap, as parent: Manifest, insteadOf checkpoint: ULID, of tracker: TrackerName,
      _ graph: ImageGraph
    ) async throws
  {
    guard let qcow2 = graph.image.format.qcow2, let target = parent.checkpoint else { return }
    try await qcow2.changeBitmaps([
      .remove(name: TrackerBitmapName(tracker: tracker, checkpoint: checkpoint).bytes),
      .store(
        BitmapToStore(
          name: TrackerBitmapName(tracker: tracker, checkpoint: target).bytes, isAuto: true, bitmap: bitmap,
          clusterByteCount: qcow2.clusterByteCount)),
    ])
    // Durable only then.
    try await graph.slot.close()
  }
}
