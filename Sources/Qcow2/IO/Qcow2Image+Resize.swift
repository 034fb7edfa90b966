import BlockCore
import Buffers

/// Growing and shrinking the guest's disk. The header's new size is the last step, after all that it stands for.
extension Qcow2Image {
  /// Makes the image larger or smaller. New bytes read as zeroes, also where a backing file is longer than the image
  /// was. It becomes smaller only where nothing but zeroes is cut off. Consistent bitmaps, which are those that don't
  /// record, get tables for the new size in the same step; new bits are clear. Others are the caller's to store.
  ///
  /// - Throws: `notSupported` for images with internal snapshots, and where data would be lost, with their range;
  ///   `misaligned` unless the size is a multiple of 512; `outOfRange` if the L1 table would pass its limit.
  package func resize(to newByteCount: UInt64) async throws(BlockError) {
    try checkChangeable(.resize)
    try await prepareToChange(.resize)
    guard newByteCount % 512 == 0 else { throw BlockError(.misaligned, .resize, cause: "not a multiple of 512") }
    let rest = await rest()
    defer { end(rest) }
    try checkChangeable(.resize)
    let old = byteCount
    if newByteCount == old { return }
    guard header.value.snapshotCount == 0 else {
      throw BlockError(.notSupported, .resize, cause: "the image has internal snapshots")
    }
    try checkBitmaps(resizingTo: newByteCount)
    if newByteCount < old { return try await shrink(to: newByteCount, from: old) }
    let entryCount = header.value.l1EntryCount(for: newByteCount)
    guard entryCount * 8 <= UInt64(Qcow2Header.maximumL1ByteCount), newByteCount <= UInt64(Int64.max) else {
      throw BlockError(.outOfRange, .resize, cause: "too large for clusters of \(clusterByteCount) bytes")
    }
    try await data.growExactly(to: newByteCount)
    if Int(entryCount) > map.l1.count { try await map.growL1(to: Int(entryCount)) }
    try await clearNewBytes(from: old, to: newByteCount)
    try await map.settle()
    try await setSize(newByteCount)
  }

  /// Drops the clusters behind the new end, then sets it. The L1 table keeps its length.
  private func shrink(to new: UInt64, from old: UInt64) async throws(BlockError) {
    let kept = clusters(ByteRange(offset: 0, length: new)).end
    try await checkZero(ByteRange(new..<min(kept, old)))
    if kept < old {
      try await checkStatusZero(ByteRange(kept..<old))
      try await drop(clusters(ByteRange(kept..<old)), .resize)
    }
    try await map.settle()
    try await setSize(new)
    if data !== file { try await data.trim(to: new) }
  }

  /// Reads bytes whose status doesn't tell, up to the first that isn't zero.
  private func checkZero(_ range: ByteRange) async throws(BlockError) {
    var offset = range.offset
    while offset < range.end {
      let mapping = try await map.mapping(at: offset, upTo: min(range.end - offset, Self.readByteCount), .resize)
      let length = Int(mapping.guest.length)
      var buffer = file.pool.take(length)
      var all = buffer.mutableBytes
      var bytes = all.part(0..<length)
      try await read(mapping, into: &bytes)
      guard buffer.bytes.extracting(0..<length).isZero else { throw loss(of: mapping.guest) }
      offset = mapping.guest.end
    }
  }

  private func checkStatusZero(_ range: ByteRange) async throws(BlockError) {
    var offset = range.offset
    while offset < range.end {
      for extent in try await blockStatus(ByteRange(offset..<range.end), limit: Self.extentsPerStatus) {
        if !extent.readsAsZero { try await checkZero(extent.range) }
        offset = extent.range.end
      }
    }
  }

  private static let extentsPerStatus = 64
  private static let readByteCount: UInt64 = 1 << 20

  private func loss(of range: ByteRange) -> BlockError {
    BlockError(
      .notSupported, .resize, range, cause: "the data in \(range) would be lost; zero or discard them before shrinking")
  }

  /// Hides what would show past the old end: the rest of the last cluster, and a longer backing file.
  private func clearNewBytes(from old: UInt64, to new: UInt64) async throws(BlockError) {
    let clusterEnd = clusters(ByteRange(offset: 0, length: old)).end
    let visible = max(min(backing?.byteCount ?? 0, new), min(clusterEnd, new))
    guard visible > old else { return }
    // The whole last cluster belongs to the new bytes where they reach its end.
    try await zero(ByteRange(old..<visible), mayUnmap: true)
  }
}

extension ClusterMap {
  /// Moves the L1 table to a larger place. No other request changes entries meanwhile.
  func growL1(to count: Int) async throws(BlockError) {
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
    file.regions.removeArea(at: oldOffset)
    file.regions.add([(.l1Table, place)])
    unreferenced.append(ClusterRun(first: oldOffset >> clusterBits, count: oldCount))
  }
}
