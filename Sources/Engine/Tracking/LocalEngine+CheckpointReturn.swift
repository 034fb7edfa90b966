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
    if order.image.source.isNBD { return .unconcerned }
    do {
      return try await onLoop(in: order.backup.repository.lane) { [self] loop in
        let repository = try await open(order.backup.repository, on: loop)
        let (backup, parent) = (try await repository.stored(order.backup), try await repository.stored(order.parent))
        guard let checkpoint = backup.manifest.checkpoint else { return .unconcerned }
        let use = ImageUse(
          .request("the deletion of backup \(order.backup.backup)"), needs: order.isRehearsal ? .read : .rest,
          isPassing: true)
        let image = try await opener(on: loop).open(order.image, for: use)
        let move = CheckpointMove(order: order, checkpoint: checkpoint, backup: backup, parent: parent, loop: loop)
        let isWritten = !order.isRehearsal && image.trackable != nil
        let outcome = try await closing([image.device]) { isWritten ? nil : try await carryOut(move, in: image) }
        if let outcome { return outcome }
        let graph = try await opener(on: loop).openToWrite(
          order.image, tracking: .unchanged(because: "only a bitmap is stored"),
          for: ImageUse(use.user, needs: .alone, isPassing: true))
        return try await closing([graph.slot]) {
          let outcome = try await carryOut(move, in: graph.image)
          // Durable only then.
          try await telling(about: graph.name) { try await graph.slot.close() }
          return outcome
        }
      }
    } catch {
      return .impossible((error as? DomainError)?.detail ?? "\(error)")
    }
  }

  private struct CheckpointMove {
    let order: CheckpointReturn
    /// Of the backup.
    let checkpoint: ULID
    let backup: StoredBackup
    let parent: StoredBackup
    let loop: EventLoop
  }

  nonisolated(nonsending)
    private func carryOut(_ move: CheckpointMove, in image: OpenImage) async throws -> CheckpointReturn.Outcome
  {
    let store = trackerStore(of: image, on: move.loop)
    let found = try await telling(about: image.name) { try await tracker(move, in: image, store) }
    guard case .found(let stored, let target) = found, !move.order.isRehearsal else { return found.outcome }
    let sum = StoredTracker(
      checkpoint: target, bitmap: try await sum(of: stored, move.backup, move.parent), identity: stored.identity)
    try await telling(about: image.name) { try await store.replace(move.order.tracker, with: sum) }
    return .returned
  }

  private enum CountingTracker {
    case found(StoredTracker, target: ULID)
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
      _ move: CheckpointMove, in image: OpenImage, _ store: any TrackerStore
    ) async throws -> CountingTracker
  {
    let parent = move.parent.manifest
    switch try await store.find(move.order.tracker) {
    case .missing(.bitmapMissing, _): return .none
    case .missing(_, let why): return .unusable(why)
    case .found(let stored):
      guard stored.checkpoint == move.checkpoint else { return .none }
      guard let target = parent.checkpoint, let marks = parent.marks, !marks.isEmpty else {
        return .unusable("backup \(parent.backup) has no checkpoint")
      }
      guard UInt64(parent.granularity ?? 0) == stored.bitmap.granularity else {
        return .unusable("the bitmap of backup \(parent.backup) had another granularity")
      }
      guard parent.virtualSize <= image.device.byteCount, parent.mixture != true else {
        return .unusable("nothing can be built on backup \(parent.backup)")
      }
      return .found(stored, target: target)
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
}
