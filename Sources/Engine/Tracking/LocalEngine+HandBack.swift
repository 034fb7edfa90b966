import BlockCore
import EventLoops
import Failures
import Model
import Qcow2

// How an image is handed back: without what was put into it to track its changes.
extension LocalEngine {
  package func removeTracking(from image: ImageLocation, tracker: TrackerName?) async -> TrackingRemoval {
    var removal = TrackingRemoval()
    do {
      removal.removed = try await removeSidecars(of: image, tracker)
    } catch {
      removal.failure = ProblemDetails((error as? DomainError) ?? DomainError(any: error, of: image.source.place))
      return removal
    }
    guard image.format == .qcow2, case .file(let path) = image.source else { return removal }
    do {
      let found = try await onLoop(in: .folder(of: path)) { [self] loop in try await tracking(in: image, tracker, loop)
      }
      removal.left = found.names
      guard !found.isNothing else { return removal }
      let removed = try await onLoop(in: .folder(of: path)) { [self] loop in
        try await remove(from: image, tracker, loop)
      }
      removal.removed += removed
      removal.left = []
    } catch {
      removal.failure = ProblemDetails((error as? DomainError) ?? DomainError(any: error, of: path))
    }
    return removal
  }

  private struct FoundTracking: Sendable {
    var names: [String] = []
    /// There may be more than what was looked at.
    var isCut = false
    var isMarked = false

    var isNothing: Bool { names.isEmpty && !isCut && !isMarked }
  }

  /// As far as it is told without the right to write: where there is nothing, nothing is opened to be written.
  nonisolated(nonsending)
    private func tracking(
      in image: ImageLocation, _ tracker: TrackerName?, _ loop: EventLoop
    ) async throws -> FoundTracking
  {
    let file = try await openUnclaimed(image.source, loop).device
    return try await telling(about: image.source.place) {
      try await closing([file]) {
        let description = try await Qcow2Description.read(from: file, pool: pool)
        let names = description.bitmaps.filter { TrackerBitmapName.isOurs($0.nameBytes, of: tracker) }.map(\.name)
        return FoundTracking(
          names: names, isCut: description.isTruncated,
          isMarked: tracker == nil && description.header.trackingMark != nil)
      }
    }
  }

  nonisolated(nonsending)
    private func remove(
      from image: ImageLocation, _ tracker: TrackerName?, _ loop: EventLoop
    ) async throws -> [String]
  {
    let graph = try await opener(on: loop).openToWrite(
      image, tracking: .unchanged(because: "only bitmaps are removed"),
      for: ImageUse(.request("the removal of its trackers"), needs: .alone, isPassing: true))
    return try await closing([graph.slot]) {
      guard let qcow2 = graph.image.format.qcow2 else { return [] }
      return try await telling(about: graph.name) {
        let isMarked = tracker == nil && qcow2.trackingMark != nil
        let stored = try await qcow2.bitmaps()
        let ours = stored.entries.filter { TrackerBitmapName.isOurs($0.nameBytes, of: tracker) }
        if !ours.isEmpty {
          try await qcow2.changeBitmaps(try Self.removal(of: ours, from: stored, graph.name))
        }
        if isMarked { try await qcow2.removeTrackingMark() }
        // Durable only then.
        try await graph.slot.close()
        return ours.map(\.name)
      }
    }
  }

  /// A directory that isn't kept up to date goes as a whole: what is in it is void, and QEMU doesn't see it.
  private static func removal(
    of ours: [BitmapEntry], from stored: StoredBitmaps, _ name: String
  ) throws(DomainError) -> [BitmapChange] {
    if stored.areTrusted { return ours.map { .remove(name: $0.nameBytes) } }
    guard ours.count == stored.entries.count else {
      throw DomainError(
        .trackingLost,
        "\(name) was changed by a program that keeps no bitmaps: all in it are void, those of others too, and none is "
          + "removed alone", remedy: "qemu-img check -r leaks frees what they take")
    }
    return []
  }
}
