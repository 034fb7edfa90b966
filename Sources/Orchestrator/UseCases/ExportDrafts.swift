import Foundation
import Model

/// An export to be made.
package struct ExportDraft: Hashable, Sendable {
  package var name: ResourceName
  package var source: ExportSourceDraft
  /// Nil: read-only.
  package var isReadOnly: Bool?
  package var listen: ExportAddress
  package var tls: ExportTLS?
  package var offersAllocationDepth: Bool
  package var bitmaps: [ExportedBitmap]
  package var changedSince: [ExportedDifference]
  /// The image's name, if the export is to attach an image on which registered overlays stand.
  package var confirm: String?

  package init(
    name: ResourceName, source: ExportSourceDraft, isReadOnly: Bool? = nil, listen: ExportAddress,
    tls: ExportTLS? = nil, offersAllocationDepth: Bool = false, bitmaps: [ExportedBitmap] = [],
    changedSince: [ExportedDifference] = [], confirm: String? = nil
  ) {
    self.name = name
    self.source = source
    self.isReadOnly = isReadOnly
    self.listen = listen
    self.tls = tls
    self.offersAllocationDepth = offersAllocationDepth
    self.bitmaps = bitmaps
    self.changedSince = changedSince
    self.confirm = confirm
  }
}

/// What to change of an export; nil leaves it as it is.
package struct ExportChange: Hashable, Sendable {
  package var offersAllocationDepth: Bool?
  package var bitmaps: [ExportedBitmap]?
  package var changedSince: [ExportedDifference]?

  package init(
    offersAllocationDepth: Bool? = nil, bitmaps: [ExportedBitmap]? = nil, changedSince: [ExportedDifference]? = nil
  ) {
    self.offersAllocationDepth = offersAllocationDepth
    self.bitmaps = bitmaps
    self.changedSince = changedSince
  }

  func applied(to export: Export) -> Export {
    var export = export
    if let offersAllocationDepth { export.offersAllocationDepth = offersAllocationDepth }
    if let bitmaps { export.bitmaps = bitmaps }
    if let changedSince { export.changedSince = changedSince }
    return export
  }
}

package enum ExportSourceDraft: Hashable, Sendable {
  case image(Reference<Image>)
  case backup(BackupID)
}

/// Which exports are wanted; nil means any. An image that isn't registered is found by its id only.
package struct ExportQuery: Hashable, Sendable {
  package var image: Reference<Image>?
  package var backup: BackupID?

  package init(image: Reference<Image>? = nil, backup: BackupID? = nil) {
    self.image = image
    self.backup = backup
  }
}

/// An export with what a person wants to see of its source, and what it does right now.
package struct ExportView: Hashable, Sendable {
  package var export: Export
  /// The image that it shows, or that its backup is of. Nil if the backup isn't known any more.
  package var imageID: ImageID?
  /// That image's last known name.
  package var imageName: String?
  /// Of its backup.
  package var pointInTime: Date?
  /// Nil if it isn't served.
  package var activity: ExportActivity?

  init(
    _ export: Export, imageID: ImageID? = nil, imageName: String? = nil, pointInTime: Date? = nil,
    activity: ExportActivity? = nil
  ) {
    self.export = export
    self.imageID = imageID
    self.imageName = imageName
    self.pointInTime = pointInTime
    self.activity = activity
  }

  init(_ export: Export, in catalog: any CatalogReading, _ engine: any BlockEngine) throws {
    self.init(export, activity: engine.activity(of: export.id))
    switch export.source {
    case .image(let id):
      imageID = id
      imageName = try catalog.image(id)?.name.text
    case .backup(let id):
      guard let backup = try catalog.backup(id) else { return }
      imageID = backup.image
      imageName = try catalog.chain(backup.chain)?.imageName.text
      pointInTime = backup.pointInTime
    }
  }
}
