import BlockCore
import Buffers

/// Taking clusters into use. Every cluster that is handed out has count 1 and lies inside the file.
extension Refcounts {
  /// Takes the first free clusters that follow one another: at least 1, at most `wanted`.
  func allocate(upTo wanted: UInt64) async throws(BlockError) -> ClusterRun {
    let hold = await turn.acquire(ByteRange(offset: 0, length: 1), .exclusive)
    defer { turn.release(hold) }
    let run = try await freeRun(upTo: wanted)
    try await take(run)
    searchStart = run.end
    return run
  }

  /// Takes exactly `count` clusters that follow one another, behind everything in use.
  func allocateContiguous(_ count: UInt64) async throws(BlockError) -> ClusterRun {
    if count == 1 { return try await allocate(upTo: 1) }
    let hold = await turn.acquire(ByteRange(offset: 0, length: 1), .exclusive)
    defer { turn.release(hold) }
    var run = ClusterRun(first: usedEnd, count: 0)
    while run.count < count {
      // A new refcount block takes a cluster for itself, which breaks the run.
      try await cover(run.end)
      if try await self.count(of: run.end) == 0 {
        run.count += 1
      } else {
        run = ClusterRun(first: run.end + 1, count: 0)
        guard run.first < usedEnd + Self.maximumLeakPastEnd else {
          throw BlockError(.corrupt("refcounts call clusters far past the end of the file used"), .write)
        }
      }
    }
    try await take(run)
    return run
  }

  /// The first run of free clusters at or after `searchStart`, not yet taken.
  private func freeRun(upTo wanted: UInt64) async throws(BlockError) -> ClusterRun {
    var cluster = searchStart
    while true {
      try await cover(cluster)
      if try await count(of: cluster) == 0 { break }
      cluster += 1
      searchStart = cluster
      guard cluster < usedEnd + Self.maximumLeakPastEnd else {
        throw BlockError(.corrupt("refcounts call clusters far past the end of the file used"), .write)
      }
    }
    var run = ClusterRun(first: cluster, count: 1)
    while run.count < wanted, try await isCoveredAndFree(run.end) { run.count += 1 }
    return run
  }

  func isCoveredAndFree(_ cluster: UInt64) async throws(BlockError) -> Bool {
    guard let place = try await slice(of: cluster) else { return false }
    return width.count(in: place.slice, at: place.index) == 0
  }

  /// Makes the file long enough for free clusters and counts them as used.
  func take(_ run: ClusterRun) async throws(BlockError) {
    try checkFree(run)
    try await file.grow(toHold: run.end << clusterBits)
    for cluster in run.first..<run.end {
      guard let place = try await slice(of: cluster) else {
        throw BlockError(.corrupt("no refcount block covers the cluster at \(cluster << clusterBits)"), .write)
      }
      width.store(1, in: place.slice, of: cache, at: place.index)
    }
    usedEnd = max(usedEnd, run.end)
  }

  /// Refcounts that call the header or a table free are wrong: writing there would destroy the image.
  func checkFree(_ run: ClusterRun) throws(BlockError) {
    guard run.end <= Self.maximumFileByteCount >> clusterBits else { throw BlockError(.noSpace, .write) }
    try file.checkNotMetadata(bytes(of: run))
  }

  /// Adds a reference to a cluster in use; false if its count can't rise or it isn't in use.
  func share(_ cluster: UInt64) async throws(BlockError) -> Bool {
    guard let place = try await slice(of: cluster) else { return false }
    let count = width.count(in: place.slice, at: place.index)
    guard count > 0, count < width.maximum else { return false }
    width.store(count + 1, in: place.slice, of: cache, at: place.index)
    return true
  }

  /// Finds room for compressed clusters of these byte counts, each behind the one before where that is possible,
  /// and counts each in every host cluster that it touches. The answers are byte offsets.
  func allocatePacked(_ byteCounts: [Int]) async throws(BlockError) -> [UInt64] {
    let hold = await turn.acquire(ByteRange(offset: 0, length: 1), .exclusive)
    defer { turn.release(hold) }
    var offsets: [UInt64] = []
    do {
      for byteCount in byteCounts { offsets.append(try await place(UInt64(byteCount))) }
      return offsets
    } catch {
      packingOffset = nil
      for (offset, byteCount) in zip(offsets, byteCounts) {
        for cluster in touched(offset, byteCount) { try? await lowerAfterFailure(cluster) }
      }
      throw error
    }
  }

  /// The host clusters that bytes touch.
  func touched(_ offset: UInt64, _ byteCount: Int) -> Range<UInt64> {
    offset >> clusterBits..<((offset + UInt64(byteCount) - 1) >> clusterBits) + 1
  }

  private func place(_ byteCount: UInt64) async throws(BlockError) -> UInt64 {
    if let offset = packingOffset, let placed = try await placeBehind(offset, byteCount) { return placed }
    let run = try await freeRun(upTo: 1)
    try await take(run)
    searchStart = run.end
    setPacking(after: run.first << clusterBits, byteCount)
    return run.first << clusterBits
  }

  /// Puts the bytes at `offset` in a cluster in use, with their end in the next cluster if that is free.
  private func placeBehind(_ offset: UInt64, _ byteCount: UInt64) async throws(BlockError) -> UInt64? {
    let cluster = offset >> clusterBits
    let next = cluster + 1
    let needsNext = offset + byteCount > next << clusterBits
    if needsNext {
      guard try await isCoveredAndFree(next) else { return nil }
    }
    guard try await share(cluster) else { return nil }
    if needsNext {
      do {
        try await take(ClusterRun(first: next, count: 1))
      } catch {
        try? await lowerAfterFailure(cluster)
        throw error
      }
      if searchStart == next { searchStart = next + 1 }
    }
    setPacking(after: offset, byteCount)
    return offset
  }

  private func setPacking(after offset: UInt64, _ byteCount: UInt64) {
    let end = offset + byteCount
    packingOffset = end & (clusterByteCount - 1) == 0 ? nil : end
  }

  private func lowerAfterFailure(_ cluster: UInt64) async throws(BlockError) {
    guard let place = try await slice(of: cluster) else { return }
    let count = width.count(in: place.slice, at: place.index)
    if count > 0 { width.store(count - 1, in: place.slice, of: cache, at: place.index) }
    if count == 1 { searchStart = min(searchStart, cluster) }
  }
}
