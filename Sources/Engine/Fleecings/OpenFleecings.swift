import Bitmaps
import BlockCore
import EventLoops
import Locks
import Model
import NBD

/// A fleecing whose views are open.
struct OpenFleecing: Sendable {
  /// One image's part.
  struct Part: Sendable {
    let order: FleecingOrder.Part
    let image: HeldImage
    /// The home of its device.
    let loop: EventLoop
    /// What tells what is dirty since the base; nil without one.
    var changes: FleecedChanges?
    /// What a success sets; nil where the image can have none.
    var checkpoint: NewCheckpoint?
    /// What the image's files are, if its tracker is kept in a sidecar.
    var identity: ImageIdentity?
    /// What is dirty, from the moment on.
    var dirty: DirtyBitmap? { if case .still(let bits) = changes { bits } else { nil } }

    var receipt: FleecingReceipt.Part {
      FleecingReceipt.Part(
        virtualSize: served?.export.device.byteCount ?? 0, dirtyBytes: dirty?.dirtyByteCount,
        tracked: checkpoint.map { TrackedPoint(granularity: $0.granularity, marks: $0.marks) })
    }

    /// Where it is served, as the listeners know it; nil until it is.
    var served: (export: NBDExport, address: ExportAddress)?
  }

  let order: FleecingOrder
  var parts: [Part]

  func tracked(_ part: Part) -> TrackedImage {
    let image = BitmapImage(id: part.order.image, name: part.order.imageName, location: part.order.location)
    return TrackedImage(
      tracker: order.tracker, image: image, identity: part.identity, user: .fleecing(order.fleecing))
  }

  func part(of image: ImageID) -> Part? { parts.first { $0.order.image == image } }
}

/// The fleecings that are begun and not ended.
///
/// A fleecing goes from absent to opening, to open, to leaving, and is absent again.
final class OpenFleecings: Sendable {
  private enum Stage {
    case opening
    case open(OpenFleecing)
    case leaving
  }

  private let stages = Lock<[FleecingID: Stage]>([:])

  var ids: Set<FleecingID> { stages.withLock { Set($0.keys) } }

  /// False if it is known already.
  func reserve(_ id: FleecingID) -> Bool {
    stages.withLock { stages in
      if stages[id] != nil { return false }
      stages[id] = .opening
      return true
    }
  }

  /// Ends opening with success.
  func put(_ fleecing: OpenFleecing) { stages.withLock { $0[fleecing.order.fleecing] = .open(fleecing) } }

  /// Ends opening with failure, or leaving.
  func remove(_ id: FleecingID) { stages.withLock { $0[id] = nil } }

  func open(_ id: FleecingID) -> OpenFleecing? {
    stages.withLock { if case .open(let fleecing) = $0[id] { fleecing } else { nil } }
  }

  /// Nil if it isn't open, or another call ends it.
  func beginLeaving(_ id: FleecingID) -> OpenFleecing? {
    stages.withLock { stages in
      guard case .open(let fleecing) = stages[id] else { return nil }
      stages[id] = .leaving
      return fleecing
    }
  }
}
