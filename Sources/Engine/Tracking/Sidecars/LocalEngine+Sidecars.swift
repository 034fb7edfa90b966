import EventLoops
import Failures
import Model

extension LocalEngine {
  /// The trackers of an image that are kept beside the server's state, as far as they can be read.
  /// - Parameter states: what the image's files are, in any order.
  nonisolated(nonsending)
    func sidecars(
      of image: ImageLocation, _ states: [ImageIdentity.Layer], _ loop: EventLoop
    ) async -> [ImageInspection.Tracker]
  {
    guard let sidecars, !states.isEmpty else { return [] }
    let name = image.source.place
    let found = await loop.blocking(in: sidecars.lane) { (try? sidecars.all(of: name)) ?? [] }
    let now = ImageIdentity(layers: states)
    let mayBeShared = !image.isExclusive && states.contains { $0.changed == nil }
    return found.map { found in
      let identity = (try? found.sidecar.get())?.head.identity
      let isTrusted = !mayBeShared && identity?.boot == now.boot && identity.map { Set($0.layers) } == Set(states)
      let name = found.name ?? TrackerBitmapName(tracker: found.tracker, checkpoint: TrackerBitmapName.noCheckpoint)
      return ImageInspection.Tracker(
        name: name, enabled: name.checkpoint != TrackerBitmapName.noCheckpoint, inconsistent: !isTrusted)
    }
  }

  func sidecarTrackers(of image: ImageLocation) async throws -> Set<TrackerName> {
    guard let sidecars else { return [] }
    let name = image.source.place
    return try await onLoop(in: sidecars.lane) { loop in
      Set(try await loop.blocking(about: name, in: sidecars.lane) { try sidecars.all(of: name) }.map(\.tracker))
    }
  }

  /// Takes the sidecars of a tracker away, or, nil: all of an image.
  /// - Returns: the names of their bitmaps.
  func removeSidecars(of image: ImageLocation, _ tracker: TrackerName?) async throws -> [String] {
    guard let sidecars else { return [] }
    let name = image.source.place
    return try await onLoop(in: sidecars.lane) { loop in
      try await loop.blocking(about: name, in: sidecars.lane) {
        let found = try sidecars.all(of: name).filter { tracker == nil || $0.tracker == tracker }
        if !found.isEmpty { try sidecars.remove(tracker, of: name) }
        return found.compactMap(\.name?.text)
      }
    }
  }
}
