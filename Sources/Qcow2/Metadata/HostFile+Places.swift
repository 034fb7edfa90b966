import BlockCore

extension HostFile {
  /// Notes where the tables of an image lie that is to be changed.
  ///
  /// Entries that name no place in the file are left out: whoever follows one finds out.
  nonisolated(nonsending)
    func learnPlaces(
      of header: Qcow2Header, refcountTable blocks: [UInt64], _ l1: [L1Entry]
    ) async throws(Qcow2Error)
  {
    var tables: [(kind: MetadataPlaces.Kind, range: ByteRange)] = [
      (.header, ByteRange(offset: 0, length: clusterByteCount)),
      (.l1Table, ByteRange(offset: header.l1Offset, length: UInt64(header.l1EntryCount) * 8)),
      (.refcountTable, ByteRange(offset: header.refcountTableOffset, length: UInt64(blocks.count) * 8)),
    ]
    let (snapshots, byteCount) = try await Qcow2Description.readSnapshotTable(header, device, pool)
    if byteCount > 0 { tables.append((.snapshotTable, ByteRange(offset: header.snapshotsOffset, length: byteCount))) }
    for snapshot in snapshots where snapshot.l1EntryCount > 0 {
      let length = UInt64(snapshot.l1EntryCount) * 8
      guard holds(snapshot.l1Offset, length) else {
        throw .damaged("snapshot \(snapshot.id): its L1 table at \(snapshot.l1Offset) isn't clusters of the file")
      }
      tables.append((.snapshotL1Table, ByteRange(offset: snapshot.l1Offset, length: length)))
    }
    places.add(tables)
    for offset in blocks where offset != 0 && holds(offset, clusterByteCount) {
      places.add(.refcountBlock, at: offset)
    }
    for entry in l1 where entry.raw != 0 && entry.raw & L1Entry.reservedMask == 0 {
      if holds(entry.tableOffset, clusterByteCount) { places.add(.l2Table, at: entry.tableOffset) }
    }
  }

  /// True if a table of this length may lie there: it begins a cluster other than the first, and the file has it.
  private func holds(_ offset: UInt64, _ length: UInt64) -> Bool {
    offset != 0 && offset % clusterByteCount == 0 && offset <= byteCount && length <= byteCount - offset
  }
}
