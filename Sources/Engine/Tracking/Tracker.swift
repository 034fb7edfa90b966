import Bitmaps
import BlockCore
import EventLoops
import Failures
import Model
import Qcow2

// How a backup knows what changed in an image since an earlier one of its repository.
//
// K1. A tracker is a bitmap together with the checkpoint that it counts from: the manifest of a backup with that checkpoint
//     is the one that it can be built on. In a qcow2 image it is a bitmap of the image itself, whose name holds the
//     checkpoint. Every program records in it that knows bitmaps, and it becomes inconsistent where one doesn't.
// K2. A checkpoint is set after the manifest is durable, in one durable step that removes the bitmap before it. Whatever
//     is cut off, the image has one that counts from some backup's moment, or none.
// K3. Between the moment and that step nothing writes to an image at rest: its locks are held, and over the gap in which
//     they are taken anew its files stay as they were. Of an attached one the new bitmap records from the moment on, and
//     the old one goes on until that step.
// K4. A new bitmap has a few granules set, which the manifest names, the disk's last one among them. One that is missing
//     later says that somebody cleared the bitmap, or cut the disk off.
// K5. What an image stands on, a backing file or a data file, may change without it, and raw images have no place for a
//     bitmap: the trackers of such images are kept in sidecars, see `TrackerSidecar`.

/// A tracker as an image at rest has it.
struct StoredTracker: Sendable {
  let checkpoint: ULID
  let bitmap: DirtyBitmap
  /// What the image's files are; nil where the bitmap is in the image itself.
  var identity: ImageIdentity?

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
    static func requirePlace(for tracker: TrackerName, among store: any TrackerStore, of image: String) async throws
  {
    let others = try await store.trackers().subtracting([tracker])
    guard others.count >= maximumCount else { return }
    throw DomainError(
      .bitmapLimit,
      "\(image) carries \(others.count) trackers, and may carry \(maximumCount): there is no place for '\(tracker)'",
      remedy: "delete one that nothing backs up by any more")
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
  /// The image, if it can carry a tracker in itself, see K5.
  var trackable: Qcow2Image? {
    guard files.count == 1, files[0].status.kind == .regular, let qcow2 = format.qcow2, qcow2.canCarryBitmaps else {
      return nil
    }
    return qcow2
  }
}

extension LocalEngine {
  /// Where the trackers of an image are that is to be backed up.
  func trackerStore(of held: HeldImage, on loop: EventLoop) -> any TrackerStore {
    guard case .attached = held else { return trackerStore(of: held.image, on: loop) }
    if let qcow2 = held.image.trackable { return ImageTrackers(image: qcow2, live: held.liveBitmaps) }
    return NoTrackers(why: "what changes in an image that can carry no bitmap is told once it is detached")
  }

  /// Where the trackers of an image at rest are.
  func trackerStore(of image: OpenImage, on loop: EventLoop) -> any TrackerStore {
    if let qcow2 = image.trackable { return ImageTrackers(image: qcow2) }
    guard let sidecars else { return NoTrackers(why: "only a qcow2 image of one regular file carries a bitmap") }
    guard !image.files.isEmpty else {
      return NoTrackers(why: "nothing tells what others write to an export of another server")
    }
    guard image.isExclusive || image.files.allSatisfy({ $0.status.kind == .regular }) else {
      return NoTrackers(why: OpenImage.isShared)
    }
    return SidecarTrackers(folder: sidecars, image: image, loop: loop)
  }
}
