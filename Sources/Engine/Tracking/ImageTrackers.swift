import Bitmaps
import BlockCore
import Failures
import Model
import Qcow2

/// Trackers in a qcow2 image itself, which is open to be read, or to be written where one is replaced.
struct ImageTrackers: TrackerStore {
  let image: Qcow2Image
  /// The bitmaps of one that is open to be written, which record its changes.
  var live: ImageBitmaps?

  nonisolated(nonsending)
    func trackers() async throws -> Set<TrackerName>
  {
    Set(try await image.bitmaps().entries.compactMap { TrackerBitmapName($0.nameBytes)?.tracker })
  }

  nonisolated(nonsending)
    func find(_ tracker: TrackerName) async throws -> StoredTracker.Finding
  {
    do throws(BlockError) {
      let set: BitmapSet
      if let live { set = live.set } else { set = BitmapSet(try await image.bitmaps(), byteCount: image.byteCount) }
      let mine = set.bitmaps.filter(\.isPersistent).compactMap { bitmap in
        TrackerBitmapName(bitmap.name).flatMap { $0.tracker == tracker ? (bitmap: bitmap, name: $0) : nil }
      }.max { $0.name.checkpoint < $1.name.checkpoint }
      guard let mine else { return .missing(.bitmapMissing, "the image carries no bitmap of this tracker") }
      guard mine.name.checkpoint != TrackerBitmapName.noCheckpoint else {
        return .missing(.sampledCheckFailed, "the image's bitmap missed a change")
      }
      switch mine.bitmap.flaw {
      case .orphaned, .foreign:
        return .missing(.bitmapInconsistent, "a program changed the image that didn't keep its bitmap up to date")
      case .inconsistent:
        return .missing(.uncleanStop, "the image wasn't closed by the last program that recorded its bitmap")
      case nil: break
      }
      guard mine.bitmap.isRecording else { return .missing(.trackingLost, "somebody disabled the image's bitmap") }
      if let bits = mine.bitmap.bits { return .found(StoredTracker(checkpoint: mine.name.checkpoint, bitmap: bits)) }
      return .found(
        StoredTracker(checkpoint: mine.name.checkpoint, bitmap: try await image.load(named: mine.bitmap.name)))
    } catch {
      guard !error.isStorageFailure else { throw error }
      return .missing(.bitmapInconsistent, "the image's bitmap can't be read: \(error)")
    }
  }

  nonisolated(nonsending)
    func replace(_ tracker: TrackerName, with stored: StoredTracker?) async throws
  {
    let name = TrackerBitmapName(
      tracker: tracker, checkpoint: stored?.checkpoint ?? TrackerBitmapName.noCheckpoint)
    let bitmap =
      stored?.bitmap
      ?? DirtyBitmap(
        byteCount: image.byteCount, granularity: StoredTracker.granularity(byteCount: image.byteCount))
    let directory = try await image.bitmaps()
    let old =
      directory.areTrusted ? directory.entries.filter { TrackerBitmapName($0.nameBytes)?.tracker == tracker } : []
    try await image.changeBitmaps(
      old.map { .remove(name: $0.nameBytes) } + [
        .store(
          BitmapToStore(
            name: name.bytes, isAuto: stored != nil, bitmap: bitmap, clusterByteCount: image.clusterByteCount))
      ])
  }
}
