import Foundation
import Model

// Writing to an image changes what is read through its files: by the overlays whose backing file it is, and by an image
// that shares its external data file. Only registered images are known.
//
// O1. A plan to restore over such an image, or to attach it, warns of that. Without its name as `confirm` it isn't done.
// O2. Only what attaches asks. An image that is attached already was confirmed then, also where a start opens it again.
// O3. An image that can't be looked at is a warning, and needs no `confirm`: one silent storage must not keep each
//     guest from its disk.
// O4. Device and inode tell which file is which; paths and links don't.

/// The registered images that read what is written to another one.
struct Overlays: Sendable {
  private let known: [ResourceName]
  /// Those of which that can't be told.
  private let unknown: [ResourceName]

  static let none = Overlays()

  init(known: [ResourceName] = [], unknown: [ResourceName] = []) {
    self.known = known.sorted { $0.text < $1.text }
    self.unknown = unknown.sorted { $0.text < $1.text }
  }

  private func change(of image: Image) -> String? {
    known.isEmpty
      ? nil : "what is written to image '\(image.name)' changes the images that stand on it: \(known.inWords)"
  }

  func warnings(of image: Image) -> [String] {
    let doubt =
      unknown.isEmpty
      ? nil : "whether these images stand on image '\(image.name)' can't be told at the moment: \(unknown.inWords)"
    return [change(of: image), doubt].compactMap { $0 }
  }

  func warnings(toAttach image: Image) -> [String] { image.attachment == nil ? warnings(of: image) : [] }

  /// Throws `confirmationRequired` if there are any, the image isn't attached yet, and `confirm` isn't its name.
  func requireConfirmation(_ confirm: String?, toAttach image: Image) throws(DomainError) {
    guard image.attachment == nil, let change = change(of: image) else { return }
    try image.requireConfirmation(confirm, because: change)
  }
}

extension BackupService {
  /// Looks at the other registered images for those that read what is written to `image`. Returns at the latest after
  /// ``ServiceLimits/overlayTimeout``.
  func overlays(on image: Image) async throws -> Overlays {
    // Looking at an NBD export opens a connection, and no image here can stand on one.
    let others = try transactions.read { catalog in try allPages { try catalog.images($0) } }
      .filter { $0.id != image.id && !$0.source.isNBD }
    // A raw image reads what is written to another one only through that one's data file, which only a qcow2 has.
    let readers = image.format == .qcow2 ? others : others.filter { $0.format == .qcow2 }
    guard !image.source.isNBD, !readers.isEmpty else { return .none }
    let deadline = transactions.time.instant + limits.overlayTimeout
    guard let written = await looks.files(of: [image.location], until: deadline)[image.location]?.own else {
      return Overlays(unknown: readers.map(\.name))
    }
    let candidates = written.count > 1 ? readers : readers.filter { $0.format == .qcow2 }
    let files = await looks.files(of: candidates.map(\.location), until: deadline)
    return Overlays(
      known: candidates.filter { files[$0.location]?.all.isDisjoint(with: written) == false }.map(\.name),
      unknown: candidates.filter { files[$0.location] == nil }.map(\.name))
  }
}
