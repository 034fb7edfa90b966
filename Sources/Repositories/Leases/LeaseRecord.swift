import EventLoops
import Glibc
import Model

/// `leases/<image id>.lease`: which server writes below an image's folder.
///
/// The file is never renamed or removed, as its holder also has an OFD lock on it; it is rewritten in place, padded to
/// ``byteCount``. A torn write doesn't match its checksum and counts as a beat of an unknown holder.
package struct LeaseRecord: CheckedDocument {
  package static let currentFormatVersion = 1
  /// Of the file, in bytes.
  static let byteCount = 1024

  package var formatVersion = Self.currentFormatVersion
  /// Rises with each taking.
  package var epoch: UInt64
  /// The server that took it.
  package var writer: ULID
  /// New with each taking.
  package var session: ULID
  /// Rises while its holder lives.
  package var beat: UInt64
  package var isHeld: Bool
  /// How long without a beat makes it free to take.
  package var leaseMilliseconds: Int
  package var checksum = ""

  package init(epoch: UInt64, writer: ULID, session: ULID, beat: UInt64, isHeld: Bool, leaseMilliseconds: Int) {
    self.epoch = epoch
    self.writer = writer
    self.session = session
    self.beat = beat
    self.isHeld = isHeld
    self.leaseMilliseconds = leaseMilliseconds
  }

  package func encoded() throws -> [UInt8] {
    let text = try CheckedDocumentCodec.encode(self)
    precondition(text.count < Self.byteCount)
    return text + [UInt8](repeating: 0x20, count: Self.byteCount - text.count - 1) + [0x0A]
  }

  package static func decode(_ bytes: [UInt8]) throws(DocumentDamage) -> LeaseRecord {
    var bytes = bytes
    while bytes.last == 0x20 || bytes.last == 0x0A { bytes.removeLast() }
    return try CheckedDocumentCodec.decode(LeaseRecord.self, from: bytes)
  }
}

/// How long a lease lives, and how often it is renewed.
package struct LeaseTiming: Hashable, Sendable {
  /// Without a beat for this long, a lease is free to take.
  package var duration: Duration
  /// Between two beats.
  package var interval: Duration

  package init(duration: Duration = .seconds(30), interval: Duration? = nil) {
    self.duration = duration
    self.interval = interval ?? duration / 5
  }

  /// Deleted backups keep their tombstone this long.
  package var grace: Duration { duration * 2 }

  var milliseconds: Int {
    let (seconds, attoseconds) = duration.components
    return Int(seconds) * 1000 + Int(attoseconds / 1_000_000_000_000_000)
  }
}
