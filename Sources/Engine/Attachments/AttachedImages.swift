import BlockCore
import BlockFilters
import EventLoops
import Locks
import Model

/// An image that is open read-write until it is detached.
struct AttachedImage: Sendable {
  let location: ImageLocation
  /// Where everybody's requests go; on `loop`.
  let slot: Slot
  let loop: EventLoop
  let byteCount: UInt64
  /// What others meet that want its files: passing until it is found by all, and again while it is closed.
  let use: ImageUse
  /// Tells this time of being attached from every other.
  let period = ULID()

  /// What a person knows it by.
  var name: String { location.source.place }

  /// Changes whenever the image may have changed. On `loop`.
  var generation: FileGeneration { FileGeneration(period: period, changeCount: slot.changeCount) }
}

/// The images that are attached, each with the exports that use it.
///
/// An image goes from absent to opening, to open, to closing, and is absent again; only an open one is found by others.
final class AttachedImages: Sendable {
  private enum Stage {
    case opening
    case open(AttachedImage, users: [ExportID: ResourceName])
    case closing
  }

  private struct Entry {
    var location: ImageLocation
    var stage: Stage
  }

  private let entries = Lock<[ImageID: Entry]>([:])
  private let changes = Lock(0)

  /// Grows whenever an image comes to be open, or is no longer: while two looks at it are the same, so is
  /// ``image(at:)``.
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
      let isTaken = entries[image] != nil || entries.values.contains { $0.location.source == location.source }
      if !isTaken { entries[image] = Entry(location: location, stage: .opening) }
      return !isTaken
    }
    if !isFree { throw Self.inUse(location) }
  }

  /// Ends opening with success.
  func put(_ attached: AttachedImage, for image: ImageID) {
    entries.withLock { entries in
      changes.withLock { $0 += 1 }
      entries[image] = Entry(location: attached.location, stage: .open(attached, users: [:]))
      attached.use.isPassing = false
    }
  }

  /// Ends opening with failure, or closing.
  func remove(_ image: ImageID) { entries.withLock { $0[image] = nil } }

  /// Begins closing; nil if it isn't attached.
  /// - Throws: `imageInUse`, naming its exports; also while it is being opened or closed.
  func beginClosing(_ image: ImageID) throws(DomainError) -> AttachedImage? {
    let result = entries.withLock { entries -> Result<AttachedImage?, DomainError> in
      guard let entry = entries[image] else { return .success(nil) }
      guard case .open(let attached, let users) = entry.stage else {
        return .failure(
          DomainError(.imageInUse, "\(entry.location.source.place) is being attached or detached", remedy: "try again"))
      }
      guard users.isEmpty else {
        let names = users.values.map(\.description).sorted().joined(separator: ", ")
        return .failure(
          DomainError(.imageInUse, "\(attached.name) is exported as \(names)", remedy: "delete its exports first"))
      }
      changes.withLock { $0 += 1 }
      entries[image]?.stage = .closing
      attached.use.isPassing = true
      return .success(attached)
    }
    return try result.get()
  }

  // MARK: Users

  /// Counts an export in.
  /// - Throws: `imageNotAttached`.
  func use(_ image: ImageID, for export: ExportID, named name: ResourceName) throws(DomainError) -> AttachedImage {
    let found = entries.withLock { entries -> AttachedImage? in
      guard case .open(let attached, var users) = entries[image]?.stage else { return nil }
      users[export] = name
      entries[image]?.stage = .open(attached, users: users)
      return attached
    }
    guard let found else {
      throw DomainError(.imageNotAttached, "the image \(image) isn't attached", remedy: "attach it first")
    }
    return found
  }

  /// Counts an export out.
  func release(_ image: ImageID, by export: ExportID) {
    entries.withLock { entries in
      guard case .open(let attached, var users) = entries[image]?.stage else { return }
      users[export] = nil
      entries[image]?.stage = .open(attached, users: users)
    }
  }

  /// The image of that source, if it is attached.
  func image(at source: ImageSource) -> AttachedImage? {
    entries.withLock { entries in
      for entry in entries.values where entry.location.source == source {
        if case .open(let attached, _) = entry.stage { return attached }
      }
      return nil
    }
  }

  /// Refuses what needs the image for itself, or at rest.
  func checkDetached(_ location: ImageLocation) throws(DomainError) {
    let isAttached = entries.withLock { entries in
      entries.values.contains { $0.location.source == location.source }
    }
    if isAttached { throw Self.inUse(location) }
  }

  private static func inUse(_ location: ImageLocation) -> DomainError {
    DomainError(.imageInUse, "\(location.source.place) is attached", remedy: "detach it first")
  }
}
