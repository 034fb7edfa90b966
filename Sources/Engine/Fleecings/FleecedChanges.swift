import Bitmaps
import BlockCore
import EventLoops
import Failures
import Model
import Qcow2
import Repositories

/// What tells what changed in an image since the base of its fleecing.
enum FleecedChanges: Sendable {
  /// A bitmap that records: its bits are taken at the moment.
  case recorded(name: [UInt8])
  case still(DirtyBitmap)

  /// As of the moment.
  func bits(in bitmaps: ImageBitmaps?) -> DirtyBitmap? {
    switch self {
    case .recorded(let name): bitmaps?.set[name]?.bits
    case .still(let bits): bits
    }
  }
}

extension LocalEngine {
  /// Before the moment; until then nobody else changes the image's bitmaps.
  nonisolated(nonsending)
    func changes(
      since base: FleecingOrder.Base, in held: HeldImage, on loop: EventLoop
    ) async throws -> FleecedChanges
  {
    switch base {
    case .bitmap(let name):
      return try await telling(about: held.name) { try await Self.changes(since: name, in: held) }
    case .checkpoint(let checkpoint, let tracker, let marks):
      return try await changes(since: checkpoint, of: tracker, marks, in: held, on: loop)
    }
  }

  nonisolated(nonsending)
    private static func changes(since name: BitmapName, in held: HeldImage) async throws -> FleecedChanges
  {
    guard let qcow2 = held.image.format.qcow2 else {
      throw DomainError(
        .notFound, "\(held.name) has no bitmap \(name.quoted): it isn't of a format with bitmaps",
        remedy: "begin the fleecing without `since`")
    }
    let set: BitmapSet
    if let live = held.liveBitmaps {
      set = live.set
    } else {
      set = BitmapSet(try await qcow2.bitmaps(), byteCount: qcow2.byteCount)
    }
    let bitmap = try readable(name, in: set)
    if bitmap.isRecording, held.liveBitmaps != nil { return .recorded(name: bitmap.name) }
    if let bits = bitmap.bits { return .still(bits) }
    return .still(try await qcow2.load(named: bitmap.name))
  }

  /// - Throws: `trackingLost` where the tracker's bitmap counts from another moment, or tells nothing.
  nonisolated(nonsending)
    private func changes(
      since checkpoint: ULID, of tracker: TrackerName, _ marks: FleecingOrder.Base.Marks, in held: HeldImage,
      on loop: EventLoop
    ) async throws -> FleecedChanges
  {
    let known = try await known(marks)
    let trackers = trackerStore(of: held, on: loop)
    let finding = explained(
      try await telling(about: held.name) { try await trackers.find(tracker) }, of: held.image)
    let stored: StoredTracker
    switch finding {
    case .missing(_, let why): throw Self.untold(held.name, checkpoint, why)
    case .found(let found): stored = found
    }
    guard stored.checkpoint == checkpoint else {
      throw Self.untold(
        held.name, checkpoint, "the bitmap of tracker '\(tracker)' counts from checkpoint \(stored.checkpoint)")
    }
    guard stored.bitmap.granularity == known.granularity, !known.marks.isEmpty, stored.has(marks: known.marks) else {
      throw Self.untold(held.name, checkpoint, "somebody cleared the image's bitmap")
    }
    let name = TrackerBitmapName(tracker: tracker, checkpoint: checkpoint).bytes
    if held.liveBitmaps?.set[name]?.isRecording == true { return .recorded(name: name) }
    let (bits, byteCount) = (stored.bitmap, held.byteCount)
    return .still(bits.byteCount == byteCount ? bits : bits.resized(to: byteCount, isGrowthDirty: true))
  }

  /// What the bitmap must have that counts from the checkpoint.
  nonisolated(nonsending)
    private func known(_ marks: FleecingOrder.Base.Marks) async throws -> TrackedPoint
  {
    switch marks {
    case .known(let point): return point
    case .ofBackup(let place):
      return try await onLoop(in: place.repository.lane) { [self] loop in
        let manifest = try await open(place.repository, on: loop).stored(place).manifest
        return TrackedPoint(granularity: UInt64(manifest.granularity ?? 0), marks: manifest.marks ?? [])
      }
    }
  }

  private static func untold(_ image: String, _ checkpoint: ULID, _ why: String) -> DomainError {
    DomainError(
      .trackingLost, "nothing tells what changed in \(image) since checkpoint \(checkpoint): \(why)",
      remedy: "read all of it: begin a fleecing without `since`, and finish it with success")
  }
}
