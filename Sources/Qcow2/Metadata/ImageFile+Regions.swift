import BlockCore

extension ImageFile {
  /// Notes where the tables of an image lie that is to be changed.
  ///
  /// An entry that names a table where the file has none is a conflict: the file may grow to that place, and guest data
  /// that were stored there would be taken for a table, whose contents the guest then chooses.
  func learnRegions(
    of header: Qcow2Header, refcountTable blocks: [UInt64], _ l1: [L1Entry]
  ) async throws(Qcow2Error) {
    var tables: [(kind: MetadataRegions.Kind, range: ByteRange)] = [
      (.header, ByteRange(offset: 0, length: clusterByteCount)),
      (.l1Table, ByteRange(offset: header.l1Offset, length: UInt64(header.l1EntryCount) * 8)),
      (.refcountTable, ByteRange(offset: header.refcountTableOffset, length: UInt64(blocks.count) * 8)),
    ]
    let (snapshots, byteCount) = try await SnapshotTableReader.readNameless(header, device, pool)
    if byteCount > 0 { tables.append((.snapshotTable, ByteRange(offset: header.snapshotsOffset, length: byteCount))) }
    var snapshotL1Tables: [ByteRange] = []
    for snapshot in snapshots where snapshot.l1EntryCount > 0 {
      let length = UInt64(snapshot.l1EntryCount) * 8
      guard holds(snapshot.l1Offset, length) else {
        throw .damaged("snapshot \(snapshot.id): its L1 table at \(snapshot.l1Offset) isn't clusters of the file")
      }
      snapshotL1Tables.append(ByteRange(offset: snapshot.l1Offset, length: length))
    }
    tables += snapshotL1Tables.map { (.snapshotL1Table, $0) }
    regions.unreadSnapshotL1Tables = snapshotL1Tables.isEmpty ? nil : snapshotL1Tables
    regions.add(tables)
    for (index, offset) in blocks.enumerated() where offset != 0 {
      if holds(offset, clusterByteCount) {
        regions.add(.refcountBlock, at: offset)
      } else {
        regions.note(Refcounts.damage(ofTableEntry: index, offset))
      }
    }
    for (index, entry) in l1.enumerated() where entry.raw != 0 {
      if holdsTable(of: entry) {
        regions.add(.l2Table, at: entry.tableOffset)
      } else {
        regions.note(entry.damage(index))
      }
    }
  }

  /// Notes the L2 tables of the snapshots, once, before the first change: opening an image doesn't wait for it.
  ///
  /// - Throws: what reading the snapshots' L1 tables throws; `notSupported` where they are longer in all than
  ///   ``MetadataRegions/maximumSnapshotL1ByteCount``.
  func learnSnapshotTables() async throws(BlockError) {
    guard let l1Tables = regions.unreadSnapshotL1Tables else { return }
    let byteCount = l1Tables.reduce(0) { $0 + $1.length }
    guard byteCount <= MetadataRegions.maximumSnapshotL1ByteCount else {
      throw BlockError(
        .notSupported, .write,
        cause: "the L1 tables of the image's snapshots have \(byteCount) bytes, more than can be guarded")
    }
    var tables: [UInt64] = []
    for place in l1Tables {
      do throws(Qcow2Error) {
        let entries = try await table(at: place.offset, count: Int(place.length / 8), L1Entry.init(raw:))
        for (index, entry) in entries.enumerated() where entry.raw != 0 {
          if holdsTable(of: entry) {
            tables.append(entry.tableOffset / clusterByteCount)
          } else {
            regions.note("the \(MetadataRegions.Kind.snapshotL1Table) at \(place.offset): \(entry.damage(index))")
          }
        }
      } catch {
        throw error.asBlockError(.write)
      }
    }
    tables.sort()
    var distinct: [UInt64] = []
    for cluster in tables where cluster != distinct.last { distinct.append(cluster) }
    regions.add(snapshotTables: distinct)
  }

  /// True if the entry names an L2 table that the file has.
  func holdsTable(of entry: L1Entry) -> Bool {
    entry.raw & L1Entry.reservedMask == 0 && holds(entry.tableOffset, clusterByteCount)
  }

  /// True if a table of this length may lie there: it begins a cluster other than the first, and the file has all of
  /// it.
  func holds(_ offset: UInt64, _ length: UInt64) -> Bool {
    offset != 0 && offset % clusterByteCount == 0 && offset <= byteCount && length <= byteCount - offset
  }
}
