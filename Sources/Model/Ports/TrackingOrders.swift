/// What an image at rest has of its tracking, with the server's record of its changes.
package struct ImageTracking: Hashable, Sendable, Codable {
  /// A dirty bitmap of the image, whoever made it.
  package struct Bitmap: Hashable, Sendable, Codable {
    package var name: BitmapName
    /// It records what the next program changes.
    package var isEnabled: Bool
    /// Why what it says is worth nothing, in words; nil if it is consistent.
    package var flaw: String?

    package init(name: BitmapName, isEnabled: Bool = true, flaw: String? = nil) {
      self.name = name
      self.isEnabled = isEnabled
      self.flaw = flaw
    }
  }

  /// In the order of the image's directory, without the witness.
  package var bitmaps: [Bitmap]
  /// It carries the witness or the mark, which vouch for the record of its changes.
  package var isMarked: Bool
  /// Bitmaps that are inconsistent become consistent when it is opened to be written: their changes were recorded.
  package var awaitsRecovery: Bool
  /// Records of its changes that count no more.
  package var leftRecordCount: Int
  /// Trackers that are kept beside the server's state. The next backup of each replaces what it has: nothing is to be put
  /// right there.
  package var sidecars: Set<TrackerName>

  package init(
    bitmaps: [Bitmap] = [], isMarked: Bool = false, awaitsRecovery: Bool = false, leftRecordCount: Int = 0,
    sidecars: Set<TrackerName> = []
  ) {
    self.sidecars = sidecars
    self.bitmaps = bitmaps
    self.isMarked = isMarked
    self.awaitsRecovery = awaitsRecovery
    self.leftRecordCount = leftRecordCount
  }
}

/// What is to be put right of an image's tracking. It is opened to be written, which recovers what can be recovered.
package struct TrackingRepair: Hashable, Sendable, Codable {
  /// Two bitmaps of one tracker that become one.
  package struct Merge: Hashable, Sendable, Codable {
    /// The newer one, which goes.
    package var source: BitmapName
    /// The older one, which counts from its checkpoint on again.
    package var target: BitmapName

    package init(source: BitmapName, target: BitmapName) {
      self.source = source
      self.target = target
    }
  }

  package var job: JobID
  package var image: ImageLocation
  /// Those that aren't there any more are left out.
  package var removals: [BitmapName] = []
  package var merges: [Merge] = []
  /// Takes the witness and the mark out, if nothing is recorded in the image.
  package var takesMarksOut = false
  package var removesLeftRecords = false

  package init(job: JobID, image: ImageLocation) {
    self.job = job
    self.image = image
  }
}
