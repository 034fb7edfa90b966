/// Something that an image, the catalog and the state folder don't agree on about the image's bitmaps.
package struct TrackingDisagreement: Hashable, Sendable, Codable {
  package enum Code: String, Hashable, Sendable, Codable, CaseIterable {
    /// Bitmaps missed changes that were recorded when the server was killed.
    case recoveryPending = "recovery-pending"
    /// A tracker's bitmap counts from a backup that the catalog doesn't have.
    case checkpointUnknown = "checkpoint-unknown"
    /// A tracker has two bitmaps.
    case trackerDoubled = "tracker-doubled"
    /// What a tracker's bitmap says isn't to be built on.
    case trackerUnusable = "tracker-unusable"
    /// Backups count on a bitmap that the image doesn't have.
    case trackerMissing = "tracker-missing"
    /// Nothing is recorded in the image, and it carries what vouches for that.
    case marksLeft = "marks-left"
    /// The state folder has records of the image's changes that count no more.
    case recordsLeft = "records-left"
    /// An export shows a bitmap that the image doesn't have.
    case exportedBitmapMissing = "exported-bitmap-missing"
  }

  package enum Outcome: String, Hashable, Sendable, Codable, CaseIterable {
    case repaired
    /// It is as it was.
    case left
  }

  package var code: Code
  /// Its name; percent-coded if it is no UTF-8, which the next tells then.
  package var bitmap: String?
  package var bitmapEncoded: Bool?
  package var export: ExportID?
  /// A sentence.
  package var detail: String
  /// What a repair does, in words; nil if there is nothing to be done, or only by hand.
  package var repair: String?
  /// Nil before the repair.
  package var outcome: Outcome?
  /// Why it was left although there is a repair.
  package var why: String?

  package init(
    _ code: Code, bitmap: BitmapName? = nil, export: ExportID? = nil, _ detail: String, repair: String? = nil
  ) {
    self.code = code
    self.bitmap = bitmap.map { $0.text ?? $0.percentEncoded }
    bitmapEncoded = bitmap.map { $0.text == nil }
    self.export = export
    self.detail = detail
    self.repair = repair
  }
}
