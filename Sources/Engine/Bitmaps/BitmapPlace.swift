import Bitmaps
import BlockCore
import EventLoops
import Failures
import Model
import Qcow2

/// An image whose bitmaps one call reads or changes, open for it until ``LocalEngine/leave(_:)``.
struct BitmapPlace: Sendable {
  enum Opening: Sendable {
    /// - Parameter use: of a call that changes them, which has reserved them.
    case attached(ImageGraph, ImageBitmaps, use: ImageUse?)
    /// At rest, to be changed.
    case written(ImageGraph, Qcow2Image)
    /// At rest, only to be read.
    case read(OpenImage, Qcow2Image)
  }

  let image: BitmapImage
  let loop: EventLoop
  let opening: Opening

  /// For messages.
  var name: String {
    switch opening {
    case .attached(let graph, _, _), .written(let graph, _): graph.name
    case .read(let image, _): image.name
    }
  }

  var qcow2: Qcow2Image {
    switch opening {
    case .attached(_, let bitmaps, _): bitmaps.image
    case .written(_, let qcow2), .read(_, let qcow2): qcow2
    }
  }

  /// The graph with the guest's changes in flight; nil at rest.
  var live: (graph: ImageGraph, bitmaps: ImageBitmaps)? {
    if case .attached(let graph, let bitmaps, _) = opening { (graph, bitmaps) } else { nil }
  }

  // MARK: On its loop

  /// All bitmaps, those named with their bits.
  nonisolated(nonsending)
    func set(loading names: Set<[UInt8]>) async throws(BlockError) -> BitmapSet
  {
    if let live {
      try await live.bitmaps.loadBits(of: names)
      return live.bitmaps.set
    }
    var set = BitmapSet(try await qcow2.bitmaps(), byteCount: qcow2.byteCount)
    for name in names { set.load(try await qcow2.load(named: name), for: name) }
    return set
  }

  /// A bitmap with its bits, which may be read.
  nonisolated(nonsending)
    func loaded(_ bitmap: BitmapSet.Bitmap) async throws(BlockError) -> DirtyBitmap
  {
    if let bits = bitmap.bits { return bits }
    return try await qcow2.load(named: bitmap.name)
  }

  /// - Parameter isAtMoment: as it was at the moment of the change that is under way.
  func generation(of bitmap: BitmapSet.Bitmap, isAtMoment: Bool = false) -> FileGeneration {
    switch opening {
    case .attached(_, let bitmaps, _):
      isAtMoment ? bitmaps.generationAtMoment(of: bitmap) : bitmaps.generation(of: bitmap)
    case .written(let graph, _): graph.image.generation
    case .read(let image, _): image.generation
    }
  }
}

// MARK: Opening

extension LocalEngine {
  /// How often an image is looked for anew because it was attached or detached meanwhile.
  private static let bitmapAttempts = 8

  /// Opens an image for one call about its bitmaps.
  /// - Parameters:
  ///   - isChanged: the call changes them: no other one does so meanwhile, and the image is neither attached nor
  ///     detached.
  /// - Throws: `formatUnsupported` for an image that can have none.
  func place(_ image: BitmapImage, isChanged: Bool) async throws -> BitmapPlace {
    for _ in 0..<Self.bitmapAttempts {
      let changeCount = attachedImages.changeCount
      do {
        if let graph = attachedImages.graph(at: image.location.source) {
          return try await place(image, in: graph, isChanged: isChanged)
        }
        return try await placeAtRest(image, isChanged: isChanged)
      } catch let error as DomainError
        where [.imageLocked, .imageInUse, .imageNotAttached].contains(error.code)
        && attachedImages.changeCount != changeCount
      {}
    }
    throw DomainError(
      .imageInUse, "\(image.location.source.place) is attached and detached all the time",
      remedy: "ask again when it rests")
  }

  private func place(_ image: BitmapImage, in graph: ImageGraph, isChanged: Bool) async throws -> BitmapPlace {
    guard let bitmaps = graph.bitmaps else { throw Self.withoutBitmaps(image) }
    guard isChanged else {
      return BitmapPlace(image: image, loop: graph.loop, opening: .attached(graph, bitmaps, use: nil))
    }
    let use = ImageUse(.request("a change of its bitmaps"), needs: .read)
    guard try attachedImages.join(image.id, use) === graph else {
      attachedImages.leave(image.id, use)
      throw DomainError(.imageNotAttached, "\(graph.name) was attached anew", remedy: "try again")
    }
    do {
      try await onLoop(graph.loop) { loop in try await bitmaps.reservePatiently(on: loop) }
      return BitmapPlace(image: image, loop: graph.loop, opening: .attached(graph, bitmaps, use: use))
    } catch {
      attachedImages.leave(image.id, use)
      throw error
    }
  }

  private func placeAtRest(_ image: BitmapImage, isChanged: Bool) async throws -> BitmapPlace {
    guard image.location.format == .qcow2 else { throw Self.withoutBitmaps(image) }
    return try await onLoop(in: .folder(of: image.location.source.place)) { [self] loop in
      guard isChanged else {
        let use = ImageUse(.request("a request for its bitmaps"), needs: .read, isPassing: true)
        let opened = try await opener(on: loop).open(image.location, for: use)
        return try await attempt {
          guard let qcow2 = opened.format.qcow2, qcow2.canCarryBitmaps else { throw Self.withoutBitmaps(image) }
          return BitmapPlace(image: image, loop: loop, opening: .read(opened, qcow2))
        } orCleanUp: {
          try? await opened.device.close()
        }
      }
      let use = ImageUse(.request("a change of its bitmaps"), needs: .alone, isPassing: true)
      let graph = try await opener(on: loop).openToWrite(
        image.location, tracking: .unchanged(because: "only bitmaps are changed"), for: use)
      return try await attempt {
        guard let qcow2 = graph.image.format.qcow2, qcow2.canCarryBitmaps else { throw Self.withoutBitmaps(image) }
        return BitmapPlace(image: image, loop: loop, opening: .written(graph, qcow2))
      } orCleanUp: {
        try? await graph.slot.close()
      }
    }
  }

  static func withoutBitmaps(_ image: BitmapImage) -> DomainError {
    DomainError(
      .formatUnsupported, "image '\(image.name)' can carry no bitmaps: only a qcow2 image of version 3 can",
      remedy: "convert it with qemu-img convert -O qcow2, or qemu-img amend -o compat=1.1")
  }

  /// Lets the image go.
  func leave(_ place: BitmapPlace) async {
    do {
      try await onLoop(place.loop, in: .folder(of: place.image.location.source.place)) { _ in
        switch place.opening {
        case .attached(_, let bitmaps, let use): if use != nil { bitmaps.free() }
        case .written(let graph, _): try await graph.slot.close()
        case .read(let image, _): try await image.device.close()
        }
      }
    } catch {
      logger.warning("closing an image after a call about its bitmaps: \(error)", metadata: ["image": "\(place.name)"])
    }
    if case .attached(_, _, let use?) = place.opening { attachedImages.leave(place.image.id, use) }
  }
}
