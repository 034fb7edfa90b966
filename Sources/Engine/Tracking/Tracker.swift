import Bitmaps
import BlockCore
import Failures
import Model
import Qcow2

// How a backup knows what changed in a qcow2 image since an earlier one of its repository.
//
// K1. A tracker is a bitmap in the image itself, which every program records that knows bitmaps, and which becomes
//     inconsistent where one doesn't. Its name holds the checkpoint that it counts from, so that the two are one: the
//     manifest of a backup with that checkpoint is the one that it can be built on.
// K2. A checkpoint is set after the manifest is durable, in one durable step that removes the bitmap before it. Whatever
//     is cut off, the image has one that counts from some backup's moment, or none.
// K3. Between the moment and that step nothing writes to an image at rest: its locks are held, and over the gap in which
//     they are taken anew its files stay as they were. Of an attached one the new bitmap records from the moment on, and
//     the old one goes on until that step.
// K4. A new bitmap has a few granules set, which the manifest names, the disk's last one among them. One that is missing
//     later says that somebody cleared the bitmap, or cut the disk off.
// K5. What an image stands on, a backing file or a data file, may change without it, and the times of a block device say
//     nothing of its contents: such images have no tracker.

/// A tracker as an image at rest has it.
struct StoredTracker: Sendable {
  let checkpoint: ULID
  let bitmap: DirtyBitmap

  /// The most granules that a new tracker has: 32 MiB of bits, which QEMU holds in memory.
  private static let maximumGranuleCount: UInt64 = 1 << 28
  /// The least that guests write: blocks of a file system, pages of a database.
  private static let minimumGranularity: UInt64 = 4096

  /// Bytes of a granule of a new tracker: 4 KiB up to a disk of 1 TiB.
  static func granularity(byteCount: UInt64) -> UInt64 {
    var granularity = minimumGranularity
    while byteCount / granularity > maximumGranuleCount { granularity *= 2 }
    return granularity
  }

  enum Finding: Sendable {
    case found(StoredTracker)
    /// Why it tells nothing.
    case missing(FallbackReason, String)
  }

  /// Trackers that one image carries at most: every write of a guest is recorded in each.
  static let maximumCount = 16

  /// Throws `bitmapLimit` if the image can't take the tracker beside those that it carries.
  nonisolated(nonsending)
    static func requirePlace(for tracker: TrackerName, in image: OpenImage) async throws
  {
    guard let qcow2 = image.trackable else { return }
    let others = Set(try await qcow2.bitmaps().entries.compactMap { TrackerBitmapName($0.nameBytes)?.tracker })
      .subtracting([tracker])
    guard others.count >= maximumCount else { return }
    throw DomainError(
      .bitmapLimit,
      "\(image.name) carries \(others.count) trackers, and may carry \(maximumCount): there is no place for '\(tracker)'",
      remedy: "delete one that nothing backs up by any more")
  }

  /// Looks for it in an image that is open.
  /// - Parameter live: the bitmaps of one that is open to be written, which record it.
  nonisolated(nonsending)
    static func find(_ tracker: TrackerName, in image: OpenImage, recordedBy live: ImageBitmaps? = nil) async throws
    -> Finding
  {
    guard let qcow2 = image.trackable else {
      return .missing(.bitmapMissing, "only a qcow2 image of one regular file carries a bitmap that can be trusted")
    }
    do throws(BlockError) {
      let set: BitmapSet
      if let live { set = live.set } else { set = BitmapSet(try await qcow2.bitmaps(), byteCount: qcow2.byteCount) }
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
        StoredTracker(checkpoint: mine.name.checkpoint, bitmap: try await qcow2.load(named: mine.bitmap.name)))
    } catch {
      guard !error.isStorageFailure else { throw error }
      return .missing(.bitmapInconsistent, "the image's bitmap can't be read: \(error)")
    }
  }

  /// Granules that a new bitmap has from the start, see K4.
  static func marks(byteCount: UInt64, granularity: UInt64) -> [UInt64] {
    let count = (byteCount + granularity - 1) / granularity
    guard count > 0 else { return [] }
    return Set((0..<3).map { _ in UInt64.random(in: 0..<count) } + [count - 1]).sorted()
  }

  func has(marks: [UInt64]) -> Bool {
    marks.allSatisfy { $0 < bitmap.granuleCount && bitmap.contains($0 * bitmap.granularity) }
  }
}

extension OpenImage {
  /// The image, if it can carry a tracker, see K5.
  var trackable: Qcow2Image? {
    guard files.count == 1, files[0].status.kind == .regular, let qcow2 = format.qcow2, qcow2.canCarryBitmaps else {
      return nil
    }
    return qcow2
  }
}
