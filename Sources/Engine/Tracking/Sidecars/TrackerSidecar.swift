import Bitmaps
import BlockCore
import Bytes
import Descriptors
import EventLoops
import Foundation
import Model

// Trackers of images that have no place for them in themselves, or whose content isn't all in one file: raw images, block
// devices, qcow2 of version 2, with a data file, or over a backing file.
//
// S1. A sidecar is one file with tracker, checkpoint, bits, and the identity of the image that they are about. It is
//     replaced as a whole: made durable under another name, then renamed, then the folder is made durable.
// S2. It is used only if it is closed and whole, is the very file that was written and no copy of it, and the image's
//     files are what they were: see ``ImageIdentity``. Anything else is compared by hash.
// S3. Before an image is open to be written, its sidecars are durably renamed to say so. They count for nothing from then
//     on: what a killed server leaves is an unclean stop.
// S4. When the image is closed its bits are stored with its identity then, which is taken after the last write and before
//     its lock is given up. What it stands on must be what it was.
// S5. At rest nothing is recorded. A backup takes the identity before its first byte is read, and stores it with the new
//     checkpoint if it is still the same.
// S6. The times of a block device say nothing: its sidecars are used if the image is `exclusive`, a promise of its owner.

/// One tracker of an image, as it is kept beside the server's state.
struct TrackerSidecar: Sendable {
  struct Head: Codable, Hashable, Sendable {
    /// The image's path.
    var image: String
    var tracker: TrackerName
    var checkpoint: ULID
    /// Nil where nothing is to be compared with it, as the bits are lost.
    var identity: ImageIdentity?
    var lack: Lack?
    var own = FileMark()
    /// Of the bits.
    var byteCount: UInt64 = 0
    var granularity: UInt64 = 0
    /// Pieces of the bits that are all set, and those whose bytes follow.
    var full: [Int] = []
    var mixed: [Int] = []
  }

  /// Which file a sidecar is: copies aren't used.
  struct FileMark: Codable, Hashable, Sendable {
    var device: UInt64 = 0
    var inode: UInt64 = 0
    /// When it was made.
    var born: Int64?

    init() {}

    init(_ file: FileDescriptor) throws(SystemError) {
      let status = try file.status()
      (device, inode, born) = (status.device, status.inode, file.birthNanoseconds())
    }
  }

  /// Why there are no bits.
  struct Lack: Codable, Hashable, Sendable, Error {
    var reason: FallbackReason
    var text: String
  }

  var head: Head
  /// Nil where they are lost.
  var bits: DirtyBitmap?

  /// - Parameter identity: of the image whose changes the bits hold.
  init(_ name: TrackerBitmapName, of image: String, _ bits: Result<DirtyBitmap, Lack>, identity: ImageIdentity?) {
    head = Head(image: image, tracker: name.tracker, checkpoint: name.checkpoint)
    switch bits {
    case .success(let bits): (self.bits, head.identity) = (bits, identity)
    case .failure(let lack): head.lack = lack
    }
  }

  var name: TrackerBitmapName { TrackerBitmapName(tracker: head.tracker, checkpoint: head.checkpoint) }
}

// MARK: As bytes

/// "CBWTRACK", the version of the format, the head's length, the head as JSON, the pieces, and a digest of all that.
extension TrackerSidecar {
  private static let magic = Array("CBWTRACK".utf8)
  private static let version: UInt64 = 1
  /// Bytes of a piece of the bits.
  private static let pieceByteCount = 8192
  private static let granulesOfPiece = UInt64(pieceByteCount) * 8
  /// More than one of a bitmap with as many bits as may be: what is longer isn't read.
  static let maximumByteCount = 640 << 20

  func encoded() throws -> [UInt8] {
    var head = head
    var pieces: [UInt8] = []
    if let bits {
      (head.byteCount, head.granularity) = (bits.byteCount, bits.granularity)
      (head.full, head.mixed) = ([], [])
      var piece = [UInt8](repeating: 0, count: Self.pieceByteCount)
      for index in 0..<Int((bits.granuleCount + Self.granulesOfPiece - 1) / Self.granulesOfPiece) {
        var span = piece.mutableSpan
        var bytes = span.mutableBytes
        switch bits.bits(fromByte: UInt64(index * Self.pieceByteCount), into: &bytes) {
        case .clear: continue
        case .set: head.full.append(index)
        case .mixed:
          head.mixed.append(index)
          pieces += piece
        }
      }
    }
    let text = try JSONEncoder().encode(head)
    var bytes = Self.magic
    bytes.append(bigEndian: Self.version)
    bytes.append(bigEndian: UInt64(text.count))
    bytes += text
    bytes += pieces
    return bytes + Digest(of: bytes.span.bytes).bytes
  }

  /// Nil unless the bytes are a whole sidecar of this version.
  init?(decoding bytes: [UInt8]) {
    let (start, end) = (Self.magic.count + 16, bytes.count - Digest.byteCount)
    guard end >= start, bytes.starts(with: Self.magic),
      Digest(from: bytes.span.bytes, at: end) == Digest(of: bytes.span.bytes.extracting(0..<end)),
      bytes.span.bytes.bigEndian(UInt64.self, at: Self.magic.count) == Self.version,
      let length = Int(exactly: bytes.span.bytes.bigEndian(UInt64.self, at: Self.magic.count + 8)),
      length <= end - start,
      let head = try? JSONDecoder().decode(Head.self, from: Data(bytes[start..<start + length]))
    else { return nil }
    self.head = head
    if head.lack != nil { return }
    let pieces = start + length
    guard DirtyBitmap.isPossible(granularity: head.granularity, byteCount: head.byteCount),
      pieces + head.mixed.count * Self.pieceByteCount == end
    else { return nil }
    var bits = DirtyBitmap(byteCount: head.byteCount, granularity: head.granularity)
    let count = Int((bits.granuleCount + Self.granulesOfPiece - 1) / Self.granulesOfPiece)
    guard (head.full + head.mixed).allSatisfy({ (0..<count).contains($0) }) else { return nil }
    let covered = Self.granulesOfPiece * head.granularity
    for index in head.full { bits.set(ByteRange(offset: UInt64(index) * covered, length: covered)) }
    for (number, index) in head.mixed.enumerated() {
      let offset = pieces + number * Self.pieceByteCount
      bits.set(
        bits: bytes.span.bytes.extracting(offset..<offset + Self.pieceByteCount),
        fromByte: UInt64(index * Self.pieceByteCount))
    }
    self.bits = bits
  }
}
