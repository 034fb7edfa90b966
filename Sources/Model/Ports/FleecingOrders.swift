import Foundation

/// The part of the engine's port that serves views of images at one moment.
package protocol FleecingEngine: Sendable {
  /// Takes the moment of all images, and serves a view of each from the return on. Images at rest are held as they lie.
  /// Throws `imageLocked`, `imageInUse`, `tempFull`, `trackingLost` where nothing tells what changed since the
  /// base, `bitmapInconsistent`, and what ``BlockEngine/export(_:)`` throws; nothing is held then.
  func fleece(_ order: FleecingOrder, control: any JobControl) async throws -> FleecingReceipt
  /// A reader is done with these bytes of the image: nothing is kept of them any more, and reading them may fail. Throws
  /// `fleecingEnded`.
  func release(_ extents: [FleecedExtent], of image: ImageID, in fleecing: FleecingID) async throws
  /// Ends the views with success: the checkpoint of the fleecing takes the place of each image's last one of the tracker, in
  /// order of id. Throws `pointInTimeLost`, `fleecingEnded`, and what keeps a checkpoint from being set: that image, and
  /// those after it, keep their last one. The views have ended all the same.
  func finish(_ fleecing: FleecingID) async throws
  /// Ends the views, and lets the images go, whose trackers stay as they were; clients are cut off. Does nothing if there is
  /// no such fleecing.
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
  /// What tells the changes.
  package enum Base: Hashable, Sendable, Codable {
    case bitmap(BitmapName)
    /// A tracker's bitmap, if it counts from the checkpoint.
    case checkpoint(ULID, of: TrackerName, Marks)

    /// What the bitmap must have.
    package enum Marks: Hashable, Sendable, Codable {
      case known(TrackedPoint)
      /// Its manifest names them.
      case ofBackup(StoredBackupLocation)
    }
  }

  package struct Part: Hashable, Sendable, Codable {
    package var image: ImageID
    package var imageName: ResourceName
    package var location: ImageLocation
    /// What NBD clients ask for.
    package var exportName: String
    /// What clients are shown the changes since; nil: none.
    package var base: Base?

    package init(
      image: ImageID, imageName: ResourceName, location: ImageLocation, exportName: String, base: Base? = nil
    ) {
      self.image = image
      self.imageName = imageName
      self.location = location
      self.exportName = exportName
      self.base = base
    }
  }

  package var fleecing: FleecingID
  package var parts: [Part]
  package var listen: ExportAddress
  package var tls: ExportTLS?
  package var release: Fleecing.Release
  package var access: Fleecing.Access
  /// What clients find after `qemu:dirty-bitmap:`.
  package var contextName: String?
  /// Whose bitmap a success advances.
  package var tracker: TrackerName
  /// What it counts from then.
  package var checkpoint: ULID

  package init(
    fleecing: FleecingID, parts: [Part], listen: ExportAddress, tls: ExportTLS? = nil,
    release: Fleecing.Release = .none, access: Fleecing.Access = .all, contextName: String? = nil,
    tracker: TrackerName = Fleecing.standardTracker, checkpoint: ULID = ULID()
  ) {
    self.fleecing = fleecing
    self.parts = parts
    self.listen = listen
    self.tls = tls
    self.release = release
    self.access = access
    self.contextName = contextName
    self.tracker = tracker
    self.checkpoint = checkpoint
  }
}

package struct FleecingReceipt: Hashable, Sendable, Codable {
  package struct Part: Hashable, Sendable, Codable {
    /// Bytes of the disk at the moment.
    package var virtualSize: UInt64
    /// What is dirty since the base; nil without one.
    package var dirtyBytes: UInt64?
    /// The bitmap that counts from the moment; nil where the image can have none.
    package var tracked: TrackedPoint?

    package init(virtualSize: UInt64, dirtyBytes: UInt64? = nil, tracked: TrackedPoint? = nil) {
      self.virtualSize = virtualSize
      self.dirtyBytes = dirtyBytes
      self.tracked = tracked
    }
  }

  package var pointInTime: Date
  package var parts: [ImageID: Part]

  package init(pointInTime: Date, parts: [ImageID: Part]) {
    self.pointInTime = pointInTime
    self.parts = parts
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
