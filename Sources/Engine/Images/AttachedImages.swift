import Locks
import Model

/// The images that are attached, each with those that use it.
///
/// An image goes from absent to opening, to open, to closing, and is absent again; only an open one is found by others.
final class AttachedImages: Sendable {
  private enum Stage {
    case opening
    case open(ImageGraph, users: [ImageUse])
    case closing
  }

  private struct Entry {
    var location: ImageLocation
    var stage: Stage
  }

  private let entries = Lock<[ImageID: Entry]>([:])
  private let changes = Lock(0)

  /// Grows whenever an image comes to be open, or is no longer: while two looks at it are the same, so is
  /// ``graph(at:)``.
  var changeCount: Int { changes.withLock { $0 } }

  var open: [ImageID] {
    entries.withLock { entries in
      entries.compactMap { if case .open = $0.value.stage { $0.key } else { nil } }
    }
  }

  /// Begins opening.
  /// - Throws: `imageInUse` if the image, or another with the same source, is attached.
  func reserve(_ image: ImageID, at location: ImageLocation) throws(DomainError) {
    let isFree = entries.withLock { entries in
      let isTaken = entries[image] != nil || Self.isAttached(location, among: entries)
      if !isTaken { entries[image] = Entry(location: location, stage: .opening) }
      return !isTaken
    }
    if !isFree { throw Self.inUse(location) }
  }

  /// The engine's rule for who may open an image's files: not one that needs them at rest while the image is attached.
  /// ``FileClaims`` keeps apart those that are let in here.
  func admit(_ use: ImageUse, to location: ImageLocation) throws(DomainError) {
    guard use.need.isAtRest, entries.withLock({ Self.isAttached(location, among: $0) }) else { return }
    throw Self.inUse(location)
  }

  private static func isAttached(_ location: ImageLocation, among entries: [ImageID: Entry]) -> Bool {
    entries.values.contains { $0.location.source == location.source }
  }

  private static func inUse(_ location: ImageLocation) -> DomainError {
    DomainError(.imageInUse, "\(location.source.place) is attached", remedy: "detach it first")
  }

  /// Ends opening with success.
  func put(_ graph: ImageGraph, for image: ImageID) {
    entries.withLock { entries in
      changes.withLock { $0 += 1 }
      entries[image] = Entry(location: graph.location, stage: .open(graph, users: []))
      graph.use.isPassing = false
    }
  }

  /// Ends opening with failure, or closing.
  func remove(_ image: ImageID) { entries.withLock { $0[image] = nil } }

  /// Begins closing; nil if it isn't attached.
  /// - Parameter evictsUsers: their requests fail from then on.
  /// - Throws: `imageInUse`, naming its users; also while it is being opened or closed.
  func beginClosing(_ image: ImageID, evictsUsers: Bool = false) throws(DomainError) -> ImageGraph? {
    let result = entries.withLock { entries -> Result<ImageGraph?, DomainError> in
      guard let entry = entries[image] else { return .success(nil) }
      guard case .open(let graph, let users) = entry.stage else {
        return .failure(
          DomainError(.imageInUse, "\(entry.location.source.place) is being attached or detached", remedy: "try again"))
      }
      guard users.isEmpty || evictsUsers else {
        return .failure(Self.stillUsed(graph.name, by: users))
      }
      changes.withLock { $0 += 1 }
      entries[image]?.stage = .closing
      graph.use.isPassing = true
      return .success(graph)
    }
    return try result.get()
  }

  /// Exports are named first: they stay until somebody deletes them.
  private static func stillUsed(_ name: String, by users: [ImageUse]) -> DomainError {
    let exports = users.compactMap { if case .export(let name) = $0.user { name.description } else { nil } }.sorted()
    guard exports.isEmpty else {
      return DomainError(
        .imageInUse, "\(name) is exported as \(exports.joined(separator: ", "))", remedy: "delete its exports first")
    }
    let words = users.map(\.user.words).sorted().joined(separator: ", ")
    return DomainError(.imageInUse, "\(name) is used by \(words)", remedy: "wait until that has ended, or end it")
  }

  // MARK: Users

  /// Counts a user in, which shares the open image with others.
  /// - Throws: `imageNotAttached`; `imageInUse` for one that needs it at rest.
  func join(_ image: ImageID, _ use: ImageUse) throws(DomainError) -> ImageGraph {
    let found = entries.withLock { entries -> ImageGraph? in
      guard case .open(let graph, let users) = entries[image]?.stage else { return nil }
      if !use.need.isAtRest { entries[image]?.stage = .open(graph, users: users + [use]) }
      return graph
    }
    guard let found else {
      throw DomainError(.imageNotAttached, "the image \(image) isn't attached", remedy: "attach it first")
    }
    if use.need.isAtRest { throw Self.inUse(found.location) }
    return found
  }

  /// Counts a user out.
  func leave(_ image: ImageID, _ use: ImageUse) {
    entries.withLock { entries in
      guard case .open(let graph, let users) = entries[image]?.stage else { return }
      entries[image]?.stage = .open(graph, users: users.filter { $0 !== use })
    }
  }

  /// The image, if it is attached.
  func graph(of image: ImageID) -> ImageGraph? {
    entries.withLock { if case .open(let graph, _) = $0[image]?.stage { graph } else { nil } }
  }

  /// The image of that source, if it is attached.
  func graph(at source: ImageSource) -> ImageGraph? {
    entries.withLock { entries in
      for entry in entries.values where entry.location.source == source {
        if case .open(let graph, _) = entry.stage { return graph }
      }
      return nil
    }
  }
}
