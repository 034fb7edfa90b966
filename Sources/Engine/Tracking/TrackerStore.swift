import Bitmaps
import BlockCore
import EventLoops
import Failures
import Model

/// Where the trackers of an image at rest are kept: in the image (``ImageTrackers``), or beside the server's state
/// (``SidecarTrackers``), see K5.
protocol TrackerStore: Sendable {
  /// Whether its bitmaps count only while the image's files are what they were.
  var countsByIdentity: Bool { get }

  /// Those that it has, as far as can be told.
  nonisolated(nonsending) func trackers() async throws -> Set<TrackerName>

  nonisolated(nonsending) func find(_ tracker: TrackerName) async throws -> StoredTracker.Finding

  /// Puts a bitmap in the place of all that the tracker has, in one durable step, see K2.
  /// - Parameter stored: nil: none that tells anything, as the tracker has missed a change.
  nonisolated(nonsending) func replace(_ tracker: TrackerName, with stored: StoredTracker?) async throws
}

extension TrackerStore {
  var countsByIdentity: Bool { false }
}

/// Of an image that can have no trackers.
struct NoTrackers: TrackerStore {
  let why: String

  func trackers() -> Set<TrackerName> { [] }
  func find(_ tracker: TrackerName) -> StoredTracker.Finding { .missing(.bitmapMissing, why) }
  func replace(_ tracker: TrackerName, with stored: StoredTracker?) {}
}

/// Trackers in sidecars.
struct SidecarTrackers: TrackerStore {
  let countsByIdentity = true
  let folder: SidecarFolder
  let image: OpenImage
  let loop: EventLoop

  nonisolated(nonsending)
    func trackers() async throws -> Set<TrackerName>
  {
    // A backup doesn't depend on the server's own state.
    let found = await loop.blocking(in: folder.lane) { [folder, image] in try? folder.all(of: image.name) }
    return Set((found ?? []).map(\.tracker))
  }

  nonisolated(nonsending)
    func find(_ tracker: TrackerName) async throws -> StoredTracker.Finding
  {
    let name = image.name
    do {
      let found = try await loop.blocking(about: name, in: folder.lane) { [folder] in
        try folder.find(tracker, of: name)
      }
      guard let found else { return .missing(.bitmapMissing, "no bitmap of this tracker is kept for the image") }
      switch image.bits(of: found, at: image.opened) {
      case .success(let stored): return .found(stored)
      case .failure(let lack): return .missing(lack.reason, lack.text)
      }
    } catch let error as DomainError {
      return .missing(.trackingLost, "this server's record of the image's changes can't be read: \(error.detail)")
    }
  }

  nonisolated(nonsending)
    func replace(_ tracker: TrackerName, with stored: StoredTracker?) async throws
  {
    let sidecar: TrackerSidecar
    if let stored {
      guard let identity = stored.identity, try await image.identity(on: loop) == identity else {
        throw DomainError(.imageInUse, "\(image.name) was changed, or goes on being changed")
      }
      sidecar = TrackerSidecar(
        TrackerBitmapName(tracker: tracker, checkpoint: stored.checkpoint), of: image.name, .success(stored.bitmap),
        identity: identity)
    } else {
      sidecar = TrackerSidecar(
        TrackerBitmapName(tracker: tracker, checkpoint: TrackerBitmapName.noCheckpoint), of: image.name,
        .failure(.init(reason: .sampledCheckFailed, text: "the image's bitmap missed a change")), identity: nil)
    }
    try await loop.blocking(about: image.name, in: folder.lane) { [folder] in try folder.put(sidecar) }
  }
}

extension OpenImage {
  /// What a sidecar says has changed since its checkpoint, if the image is what it was: see S2 and S6.
  func bits(
    of found: SidecarFolder.Found, at now: ImageIdentity
  ) -> Result<StoredTracker, TrackerSidecar.Lack> {
    guard isExclusive || files.allSatisfy({ $0.status.kind == .regular }) else {
      return .failure(.init(reason: .trackingLost, text: Self.isShared))
    }
    return found.sidecar.flatMap { sidecar in
      guard let identity = sidecar.head.identity, let bits = sidecar.bits else {
        return .failure(.init(reason: .trackingLost, text: "this server's record of the image's changes has no bits"))
      }
      if let (reason, text) = identity.refusal(now, paths: files.map(\.path)) {
        return .failure(.init(reason: reason, text: text))
      }
      guard bits.byteCount == device.byteCount else {
        return .failure(
          .init(reason: .sizeChanged, text: "the image was \(bits.byteCount) bytes long and is \(device.byteCount)"))
      }
      return .success(StoredTracker(checkpoint: sidecar.head.checkpoint, bitmap: bits, identity: identity))
    }
  }

  static let isShared =
    "nothing tells who else writes to a block device: declare the image exclusive if only this server does"
}
