import Foundation
import Model

extension Export {
  /// What the engine is asked to serve. Throws if the source can't be served as it is now.
  func order(in catalog: any CatalogReading) throws -> ExportOrder {
    switch source {
    case .image(let id):
      let image = try catalog.find(id)
      if image.state == .attached { return order(of: image, isAttached: true) }
      guard isReadOnly, image.attachment == nil else {
        throw DomainError(.imageNotAttached, "image '\(image.name)' isn't attached", remedy: "attach it")
      }
      return order(of: image, isAttached: false)
    case .backup(let id):
      let stored = try catalog.storedBackup(id)
      try stored.backup.requireReadable()
      return order(of: stored, try catalog.located(changedSince, for: source))
    }
  }

  func order(of image: Image, isAttached: Bool) -> ExportOrder {
    order(isAttached ? .attachedImage(image.id) : .image(image.location), "image '\(image.name)'")
  }

  /// - Parameter differences: of ``changedSince``.
  func order(of stored: LocatedBackup, _ differences: [ExportOrder.Difference]) -> ExportOrder {
    let time = Timestamp.text(of: stored.backup.pointInTime)
    return order(
      .backup(stored.location), "image '\(stored.imageName)' at \(time), backup \(stored.backup.id)", differences)
  }

  private func order(
    _ source: ExportOrder.Source, _ description: String, _ differences: [ExportOrder.Difference] = []
  ) -> ExportOrder {
    ExportOrder(
      export: id, name: name, description: description, source: source, isReadOnly: isReadOnly, listen: listen,
      tls: tls, offersAllocationDepth: offersAllocationDepth, bitmaps: bitmaps, changedSince: differences)
  }
}

extension ExportAddress {
  /// Whether clients of both connect to the same place, as far as the spelling tells.
  func isSame(as other: ExportAddress) -> Bool {
    switch (self, other) {
    case (.unix(let path), .unix(let otherPath)): comparablePath(path) == comparablePath(otherPath)
    case (.tcp, .tcp): self == other
    default: false
    }
  }
}
