import Bytes
import BlockCore
import Buffers

/// Bringing changed tables to the file in the order that the invariants ask for.
extension ClusterMap {
  /// True if everything answered so far is durable but for data written in place.
  var isDurable: Bool {
    cache.dirtyCount == 0 && dirtyL1Sectors.isEmpty && !isCommitting && !hasUnflushedEntries
  }

  /// Writes what is dirty, so that slices can leave the cache and unreferenced clusters become free.
  func commit() async throws(BlockError) {
    let hold = await commits.acquire(ByteRange(offset: 0, length: 1), .exclusive)
    defer { commits.release(hold) }
    try await commitAlone()
  }

  /// Makes everything durable that was answered before the call. Calls that wait together share one commit.
  func flush() async throws(BlockError) {
    flushesAsked += 1
    let asked = flushesAsked
    let hold = await commits.acquire(ByteRange(offset: 0, length: 1), .exclusive)
    defer { commits.release(hold) }
    try file.checkLatch(.flush)
    if flushesDone >= asked { return }
    let covered = flushesAsked
    try await commitAlone()
    try await file.flush()
    hasUnflushedEntries = false
    flushesDone = max(flushesDone, covered)
  }

  /// Makes everything durable, released clusters' counts included: nothing is leaked afterwards.
  func settle() async throws(BlockError) {
    let hold = await commits.acquire(ByteRange(offset: 0, length: 1), .exclusive)
    defer { commits.release(hold) }
    try await commitAlone()
    try await refcounts.write()
    try await file.flush()
    hasUnflushedEntries = false
  }

  /// The steps, each of which relies on the one before. Held by one at a time.
  func commitAlone() async throws(BlockError) {
    try file.checkLatch(.write)
    isCommitting = true
    defer { isCommitting = false }
    // What memory says at this moment: everything that it names was written, and counted, before.
    let entries = cache.stage() + stageL1()
    let released = unreferenced
    unreferenced = []
    do {
      if !entries.isEmpty {
        try await refcounts.write()
        try await file.flush()
        for staged in entries { try await staged.write(to: file) }
        hasUnflushedEntries = true
      }
    } catch {
      // Staged entries are lost: the file must not be written to any more.
      file.latch(error)
      throw error
    }
    if !released.isEmpty { try await release(released) }
  }

  private func release(_ released: [ClusterRun]) async throws(BlockError) {
    var runs = released
    do {
      if hasUnflushedEntries {
        try await file.flush()
        hasUnflushedEntries = false
      }
      try await refcounts.release(&runs, givingBack: true)
    } catch {
      unreferenced += runs
      throw error
    }
  }

  private func stageL1() -> [StagedWrite] {
    defer { dirtyL1Sectors = [] }
    return dirtyL1Sectors.sorted().map { sector in
      let start = sector * Self.l1EntriesPerSector
      return stageL1(start..<min(start + Self.l1EntriesPerSector, l1.count))
    }
  }

  /// A copy of these entries, which begin a sector of the L1 table, up to the end of a sector: behind the table's end
  /// its last cluster is zero.
  func stageL1(_ range: Range<Int>) -> StagedWrite {
    let sectors = (range.count + Self.l1EntriesPerSector - 1) / Self.l1EntriesPerSector
    let byteCount = sectors * Self.l1EntriesPerSector * 8
    var buffer = file.pool.take(byteCount)
    var bytes = buffer.mutableBytes
    bytes.zero(range.count * 8..<byteCount)
    for (position, entry) in l1[range].enumerated() { bytes.store(bigEndian: entry.raw, at: position * 8) }
    return StagedWrite(.l1Table, offset: l1Offset + UInt64(range.lowerBound) * 8, byteCount: byteCount, buffer: buffer)
  }
}
