import Foundation

/// A moment of an image that a finished fleecing has set: the bitmap of its tracker counts from it.
package struct FleecingCheckpoint: Hashable, Sendable, Codable {
  /// The same for all images of the fleecing.
  package var id: ULID
  package var image: ImageID
  package var tracker: TrackerName
  /// What its maker calls it.
  package var label: String?
  /// Of the bitmap.
  package var tracked: TrackedPoint
  package var pointInTime: Date

  package init(
    id: ULID, image: ImageID, tracker: TrackerName, label: String? = nil, tracked: TrackedPoint, pointInTime: Date
  ) {
    self.id = id
    self.image = image
    self.tracker = tracker
    self.label = label
    self.tracked = tracked
    self.pointInTime = pointInTime
  }

  /// Those of one image and tracker that are kept: the newest that was set, and those that a crash may have left unset.
  package static let keptCount = 8
}

/// What a bitmap is known by that counts from a moment.
package struct TrackedPoint: Hashable, Sendable, Codable {
  /// Bytes of a granule.
  package var granularity: UInt64
  /// Granules that were set from the start: one that is clear later says that somebody cleared the bitmap.
  package var marks: [UInt64]

  package init(granularity: UInt64, marks: [UInt64]) {
    self.granularity = granularity
    self.marks = marks
  }
}
