import BlockCore
import Buffers

extension Qcow2Image {
  /// Makes the image larger. The new bytes read as zeroes, also where a backing file is longer than the image was.
  ///
  /// - Throws: `notSupported` for a smaller size and for images with internal snapshots; `misaligned` unless the size
  ///   is a multiple of 512; `outOfRange` if the L1 table would pass its limit.
  nonisolated(nonsending)
    package func resize(to newByteCount: UInt64) async throws(BlockError)
  {
    try checkUsable(.resize)
    try await prepareToChange(.resize)
    guard newByteCount % 512 == 0 else { throw BlockError(.misaligned, .resize, cause: "not a multiple of 512") }
    let all = await ranges.acquire(ByteRange(offset: 0, length: .max), .exclusive)
    defer { ranges.release(all) }
    try checkUsable(.resize)
    let old = byteCount
    if newByteCount == old { return }
    guard newByteCount > old else { throw BlockError(.notSupported, .resize, cause: "an image can't be made smaller") }
    guard header.value.snapshotCount == 0 else {
      throw BlockError(.notSupported, .resize, cause: "the image has internal snapshots")
    }
    let entryCount = header.value.l1EntryCount(for: newByteCount)
    guard entryCount * 8 <= UInt64(Qcow2Header.maximumL1ByteCount), newByteCount <= UInt64(Int64.max) else {
      throw BlockError(.outOfRange, .resize, cause: "too large for clusters of \(clusterByteCount) bytes")
    }
    if Int(entryCount) > map.l1.count { try await map.growL1(to: Int(entryCount)) }
    try await clearNewBytes(from: old, to: newByteCount)
    try await map.settle()
    try await header.setSize(newByteCount, l1Offset: map.l1Offset, l1EntryCount: map.l1.count)
  }

  /// Hides what would show past the old end: the rest of the last cluster, and a longer backing file.
  nonisolated(nonsending)
    private func clearNewBytes(from old: UInt64, to new: UInt64) async throws(BlockError)
  {
    let clusterEnd = clusters(ByteRange(offset: 0, length: old)).end
    let visible = max(min(backing?.byteCount ?? 0, new), min(clusterEnd, new))
    guard visible > old else { return }
    // The whole last cluster belongs to the new bytes where they reach its end.
    try await zero(ByteRange(old..<visible), mayUnmap: true)
  }
}

extension ClusterMap {
  /// Moves the L1 table to a larger place. Nobody else changes entries meanwhile.
  nonisolated(nonsending)
    func growL1(to count: Int) async throws(BlockError)
  {
    let hold = await commits.acquire(ByteRange(offset: 0, length: 1), .exclusive)
    defer { commits.release(hold) }
    try await commitAlone()
    let clusterCount = (UInt64(count) * 8 + clusterByteCount - 1) >> clusterBits
    let run = try await refcounts.allocateContiguous(clusterCount)
    let place = ByteRange(offset: run.first << clusterBits, length: run.count << clusterBits)
    do {
      cache.forget(place)
      try await file.zero(place)
    } catch {
      var failed = [run]
      try? await refcounts.release(&failed, givingBack: false)
      throw error
    }
    let oldOffset = l1Offset
    let oldCount = (UInt64(l1.count) * 8 + clusterByteCount - 1) >> clusterBits
    l1 += [L1Entry](repeating: L1Entry(raw: 0), count: count - l1.count)
    l1Offset = place.offset
    let table = stageL1(0..<l1.count)
    try await refcounts.write()
    try await table.write(to: file)
    try await file.flush()
    try await header.setSize(header.value.virtualByteCount, l1Offset: l1Offset, l1EntryCount: count)
    refcounts.l1Range = ByteRange(offset: l1Offset, length: UInt64(count) * 8)
    unreferenced.append(ClusterRun(first: oldOffset >> clusterBits, count: oldCount))
  }
}
