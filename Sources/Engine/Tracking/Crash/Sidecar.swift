import Bitmaps
import Bytes
import Foundation

/// One state of the record of an image's changes, beside the log: what it is about, and the bits so far.
///
/// A file of it is written once, as a whole, and named by its sequence: a change is another file.
struct Sidecar: Sendable {
  struct Head: Codable, Hashable, Sendable {
    var record: String
    var session: UInt64
    var sequence: UInt64
    /// Bitmaps that were inconsistent when the image was opened, by name: what they missed isn't known.
    var inconsistent: [[UInt8]]
    /// Which file the image is, the log, and the sidecar itself: copies of any of them aren't used.
    var image: FileNumber
    var log: FileNumber
    var sidecar: FileNumber
    /// Of the bits.
    var diskByteCount: UInt64
    var granularity: UInt64
    var pages: [Int]
  }

  struct FileNumber: Codable, Hashable, Sendable {
    var device: UInt64
    var inode: UInt64
  }

  var head: Head
  var changes: RecordedChanges

  init(head: Head, changes: RecordedChanges) {
    self.head = head
    self.changes = changes
    self.head.diskByteCount = changes.layout.diskByteCount
    self.head.granularity = changes.layout.granularity
    self.head.pages = changes.pages.map(\.number)
  }

  /// The length of the head, the head, the pages, and a digest of all that.
  func encoded() throws -> [UInt8] {
    let head = try JSONEncoder().encode(head)
    var bytes: [UInt8] = []
    bytes.append(bigEndian: UInt64(head.count))
    bytes += head
    for page in changes.pages { bytes += page.bits }
    return bytes + Digest(of: bytes.span.bytes).bytes
  }

  /// Nil unless the bytes are a whole sidecar.
  init?(decoding bytes: [UInt8]) {
    let end = bytes.count - Digest.byteCount
    guard end >= 8, Digest(from: bytes.span.bytes, at: end) == Digest(of: bytes.span.bytes.extracting(0..<end)),
      let length = Int(exactly: bytes.span.bytes.bigEndian(UInt64.self, at: 0)), length <= end - 8,
      let head = try? JSONDecoder().decode(Head.self, from: Data(bytes[8..<8 + length])),
      DirtyBitmap.isPossible(granularity: head.granularity, byteCount: head.diskByteCount)
    else { return nil }
    self.head = head
    let pageByteCount = RecordingMap.Layout.pageByteCount
    guard 8 + length + head.pages.count * pageByteCount == end else { return nil }
    changes = RecordedChanges(
      layout: RecordingMap.Layout(diskByteCount: head.diskByteCount, granularity: head.granularity))
    for (index, page) in head.pages.enumerated() {
      guard (0..<changes.layout.pageCount).contains(page) else { return nil }
      let start = 8 + length + index * pageByteCount
      changes.pages.append((page, Array(bytes[start..<start + pageByteCount])))
    }
  }
}
