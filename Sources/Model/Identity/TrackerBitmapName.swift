/// The name of a tracker's bitmap in its image: `cobweb.<tracker>.<checkpoint>`. So the two are one, see `Tracker`.
package struct TrackerBitmapName: Hashable, Sendable, Codable {
  package let tracker: TrackerName
  package let checkpoint: ULID

  /// What a bitmap counts from that rests because it missed a change: from none.
  package static let noCheckpoint = ULID(high: 0, low: 0)
  private static let prefix = "cobweb"
  /// The one of ours that belongs to no tracker.
  package static let witness = Array("\(prefix).witness".utf8)

  package init(tracker: TrackerName, checkpoint: ULID) {
    self.tracker = tracker
    self.checkpoint = checkpoint
  }

  package init?(_ text: String) {
    let parts = text.split(separator: ".", omittingEmptySubsequences: false)
    guard parts.count == 3, parts[0] == Self.prefix, let tracker = TrackerName(String(parts[1])),
      let checkpoint = ULID(parts[2])
    else { return nil }
    self.init(tracker: tracker, checkpoint: checkpoint)
  }

  package init?(_ bytes: [UInt8]) {
    guard let text = String(validating: bytes, as: UTF8.self) else { return nil }
    self.init(text)
  }

  package var text: String { "\(Self.prefix).\(tracker).\(checkpoint)" }
  package var bytes: [UInt8] { Array(text.utf8) }

  /// Whether a bitmap of that name is one that this program makes: of a tracker, if one is named, or any.
  package static func isOurs(_ bytes: [UInt8], of tracker: TrackerName? = nil) -> Bool {
    if let name = TrackerBitmapName(bytes) { return tracker == nil || name.tracker == tracker }
    return tracker == nil && bytes == witness
  }
}
