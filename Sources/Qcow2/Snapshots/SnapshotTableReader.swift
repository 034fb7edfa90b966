import BlockCore
import Buffers

/// Reads a snapshot table entry by entry: all its names together may take 64 MiB.
struct SnapshotTableReader {
  private let header: Qcow2Header
  private let file: any BlockDevice
  private let pool: BufferPool
  private var number = 0
  /// What the entries take that were read.
  private(set) var byteCount: UInt64 = 0

  init(_ header: Qcow2Header, _ file: any BlockDevice, _ pool: BufferPool) {
    self.header = header
    self.file = file
    self.pool = pool
  }

  /// The next snapshot, or nil after the last one.
  mutating func next() async throws(Qcow2Error) -> Snapshot? {
    guard number < header.snapshotCount else { return nil }
    let offset = header.snapshotsOffset + byteCount
    guard offset < file.byteCount, byteCount <= UInt64(SnapshotTable.maximumByteCount) else {
      throw .damaged("snapshot \(number): the table is too long")
    }
    let count = Int(min(UInt64(SnapshotTable.usualEntryByteCount), file.byteCount - offset))
    var bytes = try await Qcow2Description.readBytes(count, at: offset, file, pool)
    if let needed = try SnapshotTable.entryByteCount(bytes.span.bytes, number: number), needed > count {
      bytes = try await Qcow2Description.readBytes(
        Int(min(UInt64(needed), file.byteCount - offset)), at: offset, file, pool)
    }
    let (snapshot, entryByteCount) = try SnapshotTable.decodeEntry(bytes.span.bytes, number: number)
    byteCount += UInt64(entryByteCount)
    number += 1
    return snapshot
  }

  /// All snapshots without their names, which only descriptions need, and how many bytes their table takes.
  static func readNameless(
    _ header: Qcow2Header, _ file: any BlockDevice, _ pool: BufferPool
  ) async throws(Qcow2Error) -> (snapshots: [Snapshot], byteCount: UInt64) {
    var reader = SnapshotTableReader(header, file, pool)
    var snapshots: [Snapshot] = []
    while var snapshot = try await reader.next() {
      snapshot.name = ""
      snapshots.append(snapshot)
    }
    return (snapshots, reader.byteCount)
  }
}
