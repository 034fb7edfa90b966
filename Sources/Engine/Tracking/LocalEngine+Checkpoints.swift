import Bitmaps
import BlockCore
import EventLoops
import Failures
import Foundation
import Glibc
import Model
import Qcow2
import Repositories

/// A checkpoint that a backup or a fleecing is to set.
struct NewCheckpoint: Sendable {
  var id = ULID()
  let granularity: UInt64
  let marks: [UInt64]
}

/// An image one of whose trackers is to count from a new checkpoint.
struct TrackedImage: Sendable {
  let tracker: TrackerName
  let image: BitmapImage
  /// Of an image whose tracker is kept in a sidecar.
  let identity: ImageIdentity?
  /// Who opens an image at rest for it.
  let user: ImageUser
}

extension BegunBackup {
  var tracked: TrackedImage {
    TrackedImage(
      tracker: order.tracker, image: BitmapImage(id: order.image.id, name: order.image.name, location: order.location),
      identity: identity, user: .job("backup", job))
  }
}

extension LocalEngine {
  /// The checkpoint of a backup that later ones may build on; nil where the image can have no tracker.
  /// - Parameter identity: of an image whose tracker is kept in a sidecar.
  func newCheckpoint(of image: OpenImage, _ identity: ImageIdentity?, id: ULID = ULID()) -> NewCheckpoint? {
    guard image.trackable != nil || identity != nil else { return nil }
    let byteCount = image.device.byteCount
    let granularity = StoredTracker.granularity(byteCount: byteCount)
    guard DirtyBitmap.isPossible(granularity: granularity, byteCount: byteCount) else { return nil }
    return NewCheckpoint(
      id: id, granularity: granularity, marks: StoredTracker.marks(byteCount: byteCount, granularity: granularity))
  }

  /// A file's times tell two changes apart if there is so much between them.
  private static let timeResolution = 0.1

  /// Sets the checkpoint in the image, in the place of the tracker's last one. Where that can't be done the image keeps the
  /// last one, or none: this backup is complete, whatever comes of it.
  nonisolated(nonsending)
    func set(
      _ checkpoint: NewCheckpoint, after begun: BegunBackup, on loop: EventLoop, _ control: any JobControl
    ) async
  {
    do {
      try await settle(checkpoint, of: begun.tracked, in: begun.image, on: loop)
    } catch {
      control.log(
        .info,
        "no bitmap counts from this backup; the next one goes by the one before it, or compares by hash: "
          + ((error as? DomainError)?.detail ?? "\(error)"))
    }
  }

  /// Sets the checkpoint, see K2.
  nonisolated(nonsending)
    func settle(
      _ checkpoint: NewCheckpoint, of tracked: TrackedImage, in held: HeldImage, on loop: EventLoop
    ) async throws
  {
    switch held {
    case .atRest(let image): try await store(checkpoint, tracked, image, on: loop)
    case .attached(let point):
      try await telling(about: point.graph.name) {
        try await point.changeTracker(on: loop) { [self] bitmaps in
          try requireUnshown(bitmaps, of: tracked)
          try await bitmaps.settle(checkpoint, of: tracked.tracker)
        }
      }
    }
  }

  /// Throws `bitmapBusy` if an export shows a bitmap of the tracker to clients, which would lose it.
  private func requireUnshown(_ bitmaps: ImageBitmaps, of tracked: TrackedImage) throws(DomainError) {
    for bitmap in bitmaps.set.bitmaps where TrackerBitmapName(bitmap.name)?.tracker == tracked.tracker {
      guard let export = exports(of: tracked.image, showing: bitmap.name).first else { continue }
      throw DomainError(
        .bitmapBusy, "the export '\(export)' shows the bitmap \(BitmapName(bitmap.name).quoted), which stays as it is",
        remedy: "take it off the export, so that the next one can replace it")
    }
  }

  /// Has the next backup compare everything: the tracker's bitmap missed a change.
  nonisolated(nonsending)
    func giveUpTracking(_ begun: BegunBackup, on loop: EventLoop, _ control: any JobControl) async
  {
    do {
      switch begun.image {
      case .atRest(let image): try await store(nil, begun.tracked, image, on: loop)
      case .attached(let point):
        try await telling(about: point.graph.name) {
          try await point.changeTracker(on: loop) { try await $0.giveUp(begun.order.tracker) }
        }
      }
    } catch {
      control.log(.error, "the bitmap that missed a change can't be taken out of \(begun.image.name): \(error)")
    }
  }

  /// Stores the bitmap of a checkpoint in an image at rest, in the place of the tracker's last one; nil: one that rests, and
  /// counts from none.
  nonisolated(nonsending)
    private func store(
      _ checkpoint: NewCheckpoint?, _ tracked: TrackedImage, _ image: OpenImage, on loop: EventLoop
    ) async throws
  {
    let tracker = checkpoint.map {
      StoredTracker(
        checkpoint: $0.id, bitmap: $0.bits(byteCount: image.device.byteCount), identity: tracked.identity)
    }
    guard image.trackable != nil else {
      return try await trackerStore(of: image, on: loop).replace(tracked.tracker, with: tracker)
    }
    let before = image.generation
    try await waitUntilTimesTell(of: image, on: loop)
    try await image.device.close()
    let graph = try await opener(on: loop).openToWrite(
      tracked.image.location, tracking: .unchanged(because: "only a bitmap is stored"),
      for: ImageUse(tracked.user, needs: .alone))
    try await closing([graph.slot]) {
      guard tracker == nil || graph.image.generation == before else {
        throw DomainError(.imageInUse, "\(graph.name) was changed right after it was read")
      }
      try await telling(about: graph.name) {
        try await trackerStore(of: graph.image, on: loop).replace(tracked.tracker, with: tracker)
        // Durable only then.
        try await graph.slot.close()
      }
    }
  }

  /// Until a change of the image from now on would have another time than its last one.
  nonisolated(nonsending)
    private func waitUntilTimesTell(of image: OpenImage, on loop: EventLoop) async throws
  {
    var status = stat()
    guard let file = image.files.first, fstat(file.descriptor.rawValue, &status) == 0 else { return }
    let changed = Double(status.st_ctim.tv_sec) + Double(status.st_ctim.tv_nsec) / 1e9
    let age = clock.now().timeIntervalSince1970 - changed
    if age < Self.timeResolution { try await loop.sleep(for: .seconds(Self.timeResolution)) }
  }
}
