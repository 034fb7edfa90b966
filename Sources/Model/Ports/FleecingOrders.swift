import Foundation

/// The part of the engine's port that serves views of images at one moment.
package protocol FleecingEngine: Sendable {
  /// Takes the moment of all images, and serves a view of each from the return on. Images at rest are held as they lie.
  /// Throws `imageLocked`, `imageInUse`, `tempFull`, and what ``BlockEngine/export(_:)`` throws; nothing is held then.
  func fleece(_ order: FleecingOrder, control: any JobControl) async throws -> FleecingReceipt
  /// A reader is done with these bytes of the image: nothing is kept of them any more, and reading them may fail. Throws
  /// `fleecingEnded`.
  func release(_ extents: [FleecedExtent], of image: ImageID, in fleecing: FleecingID) async throws
  /// Ends the views, and lets the images go; clients are cut off. Does nothing if there is no such fleecing.
  func end(_ fleecing: FleecingID) async
  /// Nil if it isn't served.
  func activity(of fleecing: FleecingID) async -> FleecingActivity?
  /// Those that are begun and not ended.
  var fleecings: Set<FleecingID> { get }
  /// Has `handler` told, on any thread, of each fleecing whose moment is lost: reads of that view fail. It must not wait.
  /// To be set before the first one is begun.
  func onFleecingLoss(_ handler: @escaping @Sendable (FleecingLoss) -> Void)
}

/// Serve views of images at one moment until they are ended.
package struct FleecingOrder: Hashable, Sendable, Codable {
  package struct Part: Hashable, Sendable, Codable {
    package var image: ImageID
    package var imageName: ResourceName
    package var location: ImageLocation
    /// What NBD clients ask for.
    package var exportName: String

    package init(image: ImageID, imageName: ResourceName, location: ImageLocation, exportName: String) {
      self.image = image
      self.imageName = imageName
      self.location = location
      self.exportName = exportName
    }
  }

  package var fleecing: FleecingID
  package var parts: [Part]
  package var listen: ExportAddress
  package var tls: ExportTLS?
  package var release: Fleecing.Release

  package init(
    fleecing: FleecingID, parts: [Part], listen: ExportAddress, tls: ExportTLS? = nil,
    release: Fleecing.Release = .none
  ) {
    self.fleecing = fleecing
    self.parts = parts
    self.listen = listen
    self.tls = tls
    self.release = release
  }
}

package struct FleecingReceipt: Hashable, Sendable, Codable {
  package var pointInTime: Date
  /// Bytes of the disks at the moment.
  package var virtualSizes: [ImageID: UInt64]

  package init(pointInTime: Date, virtualSizes: [ImageID: UInt64]) {
    self.pointInTime = pointInTime
    self.virtualSizes = virtualSizes
  }
}

/// Bytes of an image.
package struct FleecedExtent: Hashable, Sendable, Codable {
  package var offset: UInt64
  package var length: UInt64

  package init(offset: UInt64, length: UInt64) {
    self.offset = offset
    self.length = length
  }
}

/// What a fleecing does right now.
package struct FleecingActivity: Hashable, Sendable, Codable {
  package struct Part: Hashable, Sendable, Codable {
    /// Connections.
    package var clients: Int
    package var reads: ExportActivity.Requests
    /// Old bytes that are kept for the view, in memory and in the temp; and the most that were at one time.
    package var keptBytes: UInt64
    package var keptHighWater: UInt64

    package init(
      clients: Int = 0, reads: ExportActivity.Requests = ExportActivity.Requests(), keptBytes: UInt64 = 0,
      keptHighWater: UInt64 = 0
    ) {
      self.clients = clients
      self.reads = reads
      self.keptBytes = keptBytes
      self.keptHighWater = keptHighWater
    }
  }

  package var parts: [ImageID: Part]

  package init(parts: [ImageID: Part] = [:]) { self.parts = parts }
}

/// A fleecing whose moment is lost.
package struct FleecingLoss: Hashable, Sendable, Codable {
  package var fleecing: FleecingID
  package var problem: ProblemDetails

  package init(fleecing: FleecingID, problem: ProblemDetails) {
    self.fleecing = fleecing
    self.problem = problem
  }
}
