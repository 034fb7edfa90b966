import BlockCore
import Buffers

/// Changing entries. The caller holds the guest clusters exclusively and has written what the entries will name.
extension ClusterMap {
  /// Sets the entries of guest clusters from `first` on, at most `count`, as far as one slice reaches.
  ///
  /// What the old entries named is released at a commit. All that is set changes at once.
  /// - Parameter entry: the new entry for a cluster, given the old one, which is sound; nil to leave it as it is.
  /// - Returns: how many clusters were dealt with.
  func update(
    from first: UInt64, count: UInt64, _ operation: BlockError.Operation,
    _ entry: (UInt64, L2Entry) -> L2Entry?
  ) async throws(BlockError) -> UInt64 {
    let slice = try await exclusiveSlice(first, operation)
    let end = first + min(count, clustersLeftInSlice(first))
    for cluster in first..<end {
      if case .damaged(let how) = meaning(cluster << format.unitsPerClusterBits, in: slice) {
        throw BlockError(.corrupt("L2 entry at \(slice.offset + UInt64(entryPosition(cluster))): \(how)"), operation)
      }
      try checkStorage(entryIn: slice, cluster)
    }
    for cluster in first..<end {
      let old = self.entry(cluster, in: slice)
      guard let new = entry(cluster, old) else { continue }
      store(new, for: cluster, in: slice)
      dropReference(old, keeping: new)
    }
    return end - first
  }

  /// What an entry names will be given back in the end: metadata never is, nor what the file doesn't have.
  private func checkStorage(entryIn slice: TableSlice, _ cluster: UInt64) throws(BlockError) {
    let entry = entry(cluster, in: slice)
    if entry.isCompressed {
      let place = CompressedDescriptor(decoding: entry.raw, clusterBits: clusterBits)
      try file.checkNotMetadata(ByteRange(offset: place.offset, length: UInt64(place.byteCount)))
    } else if entry.host != 0, !format.hasDataFile {
      guard entry.host < file.byteCount else {
        let place = slice.offset + UInt64(entryPosition(cluster))
        throw BlockError(
          .corrupt("L2 entry at \(place): the cluster at \(entry.host) lies past the end of the file"), .write)
      }
      try file.checkNotMetadata(ByteRange(offset: entry.host, length: clusterByteCount))
    }
  }

  /// Commits where much waits for it.
  func commitIfNeeded() async throws(BlockError) {
    if cache.dirtyCount * 2 >= cache.capacity || unreferenced.count >= Self.maximumUnreferencedRuns {
      try await commit()
    }
  }

  private func dropReference(_ old: L2Entry, keeping new: L2Entry) {
    if old.isCompressed {
      let place = CompressedDescriptor(decoding: old.raw, clusterBits: clusterBits)
      for cluster in refcounts.touched(place.offset, place.byteCount) {
        unreferenced.append(ClusterRun(first: cluster, count: 1))
      }
    } else if old.host != 0, old.host != new.host, !format.hasDataFile {
      unreferenced.appendMerging(ClusterRun(first: old.host >> clusterBits, count: 1))
    }
  }

  /// The slice of a guest cluster's table, to change before the next suspension.
  private func exclusiveSlice(_ cluster: UInt64, _ operation: BlockError.Operation) async throws(BlockError)
    -> TableSlice
  {
    let index = l1Index(cluster)
    while true {
      let entry = l1[index]
      guard entry.isExclusive else {
        try await makeTableExclusive(index, operation)
        continue
      }
      let offset = sliceOffset(entry, cluster)
      if let slice = cache.cached(offset) { return slice }
      try checkTable(entry, index, operation)
      try await load(offset)
    }
  }

  /// Gives the L1 entry a table of its own: a new one, or a copy of a shared one.
  private func makeTableExclusive(_ index: Int, _ operation: BlockError.Operation) async throws(BlockError) {
    let hold = await tables.acquire(ByteRange(offset: UInt64(index), length: 1), .exclusive)
    defer { tables.release(hold) }
    let old = l1[index]
    if old.isExclusive { return }
    if old.raw != 0 { try checkTable(old, index, operation) }
    let run = try await refcounts.allocate(upTo: 1)
    let place = ByteRange(offset: run.first << clusterBits, length: clusterByteCount)
    do {
      cache.forget(place)
      if old.raw == 0 {
        try await file.zero(place)
      } else {
        try await copyTable(from: old.tableOffset, to: place.offset)
      }
    } catch {
      var failed = [run]
      try? await refcounts.release(&failed, givingBack: false)
      throw error
    }
    l1[index] = .table(at: place.offset)
    dirtyL1Sectors.insert(index / Self.l1EntriesPerSector)
    file.regions.add(.l2Table, at: place.offset)
    if old.raw == 0 { return }
    file.regions.remove(at: old.tableOffset)
    unreferenced.append(ClusterRun(first: old.tableOffset >> clusterBits, count: 1))
  }

  /// Copies a shared table. It is never dirty, so the file has it whole. The COPIED bits of its entries stay: they
  /// tell of the data clusters, whose counts don't change.
  private func copyTable(from source: UInt64, to target: UInt64) async throws(BlockError) {
    var buffer = file.pool.take(Int(clusterByteCount))
    var all = buffer.mutableBytes
    var table = all.part(0..<Int(clusterByteCount))
    try await file.read(into: &table, at: source)
    try await file.writeTable(buffer.bytes.extracting(0..<Int(clusterByteCount)), at: target, of: .l2Table)
  }
}
