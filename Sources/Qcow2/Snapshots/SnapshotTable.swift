import Bytes

/// One internal snapshot as the snapshot table describes it (qcow2.txt, "Snapshots").
package struct Snapshot: Hashable, Sendable {
  /// As much of it as is kept.
  package var id: String
  package var name: String
  /// When it was taken: seconds since 1970, and nanoseconds.
  package var dateSeconds: UInt32
  package var dateNanoseconds: UInt32
  /// How long the guest had run, in nanoseconds.
  package var guestClockNanoseconds: UInt64
  package var vmStateByteCount: UInt64
  /// The virtual size then; nil where the table doesn't say.
  package var virtualByteCount: UInt64?
  var l1Offset: UInt64
  var l1EntryCount: Int
  /// Length of the entry's extra data.
  var extraByteCount: Int
  /// The table states a longer id or name.
  var isNameCut: Bool
}

/// The snapshot table: entries of variable length, each a multiple of 8 bytes (qcow2.txt, "Snapshots").
///
/// An entry names an L1 table of its own. The L2 tables and clusters that it shares with the active one have higher
/// counts, and no COPIED flag: that is all that keeps a snapshot's bytes what they were.
enum SnapshotTable {
  static let fixedByteCount = 40
  /// The most extra data that is read, as QEMU bounds it.
  static let maximumExtraByteCount = 1024
  /// Version 3 wants this much: the long length of the VM's state, and the virtual size.
  static let minimumExtraByteCount = 16
  /// So much of an id, and of a name, is kept: more than QEMU shows of them.
  static let maximumIdentifierByteCount = 128
  static let maximumNameByteCount = 1023
  /// Most entries are no longer than this.
  static let usualEntryByteCount = 512
  /// All entries together, as QEMU bounds them.
  static let maximumByteCount = 64 << 20

  /// Length in bytes, without padding, of the entry that begins at the start of `bytes`.
  static func entryByteCount(_ bytes: RawSpan, number: Int) throws(Qcow2Error) -> Int? {
    guard bytes.byteCount >= fixedByteCount else { return nil }
    let extraCount = Int(bytes.bigEndian(UInt32.self, at: 36))
    guard extraCount <= maximumExtraByteCount else {
      throw .damaged("snapshot \(number): \(extraCount) bytes of extra data")
    }
    return fixedByteCount + extraCount + Int(bytes.bigEndian(UInt16.self, at: 12))
      + Int(bytes.bigEndian(UInt16.self, at: 14))
  }

  /// Decodes the entry at the start of `bytes`; returns it with its length in the table.
  static func decodeEntry(_ bytes: RawSpan, number: Int) throws(Qcow2Error) -> (snapshot: Snapshot, byteCount: Int) {
    guard bytes.byteCount >= fixedByteCount else { throw .damaged("snapshot \(number): the table ends inside it") }
    let idCount = Int(bytes.bigEndian(UInt16.self, at: 12))
    let nameCount = Int(bytes.bigEndian(UInt16.self, at: 14))
    let extraCount = Int(bytes.bigEndian(UInt32.self, at: 36))
    let idStart = fixedByteCount + extraCount
    let end = idStart + idCount + nameCount
    guard let needed = try entryByteCount(bytes, number: number), needed <= bytes.byteCount else {
      throw .damaged("snapshot \(number): the table ends inside it")
    }
    let shortStateCount = UInt64(bytes.bigEndian(UInt32.self, at: 32))
    let (keptID, keptName) = (min(idCount, maximumIdentifierByteCount), min(nameCount, maximumNameByteCount))
    let nameStart = idStart + idCount
    let snapshot = Snapshot(
      id: String(decoding: bytes.array(idStart..<idStart + keptID), as: UTF8.self),
      name: String(decoding: bytes.array(nameStart..<nameStart + keptName), as: UTF8.self),
      dateSeconds: bytes.bigEndian(at: 16), dateNanoseconds: bytes.bigEndian(at: 20),
      guestClockNanoseconds: bytes.bigEndian(at: 24),
      vmStateByteCount: extraCount >= 8 ? bytes.bigEndian(at: 40) : shortStateCount,
      virtualByteCount: extraCount >= 16 ? bytes.bigEndian(at: 48) : nil,
      l1Offset: bytes.bigEndian(at: 0), l1EntryCount: Int(bytes.bigEndian(UInt32.self, at: 8)),
      extraByteCount: extraCount, isNameCut: keptID < idCount || keptName < nameCount)
    guard snapshot.l1EntryCount * 8 <= Qcow2Header.maximumL1ByteCount else {
      throw .damaged("snapshot \(number): its L1 table has \(snapshot.l1EntryCount) entries")
    }
    return (snapshot, (end + 7) / 8 * 8)
  }
}
