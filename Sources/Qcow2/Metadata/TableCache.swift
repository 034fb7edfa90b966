import BlockCore
import Buffers

/// The slices of one kind of table that are in memory: a bounded number, the least used go first.
///
/// A dirty slice leaves only after it was written; when and in which order is its owner's decision.
final class TableCache {
  /// Larger tables are cached in pieces of this size.
  static let maximumSliceByteCount = 64 << 10
  /// So many fit whatever memory was granted, as one operation may need several at once.
  static let minimumSliceCount = 8
  /// What changed is written in blocks of this size, a sector.
  private static let writeAlignment = 512

  private let kind: MetadataRegions.Kind
  let sliceByteCount: Int
  let capacity: Int
  private let file: ImageFile
  private var slices: [UInt64: TableSlice] = [:]
  private var ring: [TableSlice] = []
  private var hand = 0
  private var loading: [UInt64: [UnsafeContinuation<Void, Never>]] = [:]
  private var lastUsed: TableSlice?
  /// Slices that were changed since they were last staged.
  private(set) var dirtyCount = 0

  init(_ kind: MetadataRegions.Kind, file: ImageFile, tableByteCount: Int, memoryByteCount: Int) {
    self.kind = kind
    self.file = file
    sliceByteCount = min(tableByteCount, Self.maximumSliceByteCount)
    capacity = max(memoryByteCount / max(sliceByteCount, pageByteCount), Self.minimumSliceCount)
  }

  /// The slice that starts at `offset` in the file, if it is in memory.
  func cached(_ offset: UInt64) -> TableSlice? {
    if let lastUsed, lastUsed.offset == offset {
      lastUsed.wasUsed = true
      return lastUsed
    }
    guard let slice = slices[offset] else { return nil }
    slice.wasUsed = true
    lastUsed = slice
    return slice
  }

  /// Makes room for one more slice by letting clean ones go; false if too few are clean.
  ///
  /// Slices that are being read aren't counted: there are no more of them than requests in flight.
  func makeRoom() -> Bool {
    var steps = 2 * ring.count
    while ring.count >= capacity {
      guard steps > 0 else { return false }
      steps -= 1
      hand = hand + 1 < ring.count ? hand + 1 : 0
      let slice = ring[hand]
      if slice.isEvictable, !slice.wasUsed {
        remove(at: hand)
      } else {
        slice.wasUsed = false
      }
    }
    return true
  }

  /// Reads the slice at `offset`, or waits for the task that reads it; `makeRoom` came before. Look for it again then.
  func load(_ offset: UInt64) async throws(BlockError) {
    // Another task may have read it while the caller was making room.
    if slices[offset] != nil { return }
    if loading[offset] != nil {
      await withUnsafeContinuation { waiter in
        // Others may run before this closure does, where the caller isn't on an actor: it may have been read by now.
        if loading[offset] != nil { loading[offset]?.append(waiter) } else { waiter.resume() }
      }
      return
    }
    loading[offset] = []
    defer { for waiter in loading.removeValue(forKey: offset) ?? [] { waiter.resume() } }
    var buffer = file.pool.take(sliceByteCount)
    var all = buffer.mutableBytes
    var bytes = all.part(0..<sliceByteCount)
    try await file.read(into: &bytes, at: offset)
    let slice = TableSlice(kind, offset: offset, byteCount: sliceByteCount, buffer: buffer)
    slices[offset] = slice
    ring.append(slice)
  }

  /// Forgets what lies in `range`: the clusters are no longer tables. What was dirty isn't written any more.
  func forget(_ range: ByteRange) {
    for index in ring.indices.reversed() where range.range.contains(ring[index].offset) { remove(at: index) }
  }

  /// Changes one entry of a slice that was just looked up.
  func store<Integer: FixedWidthInteger & BitwiseCopyable>(
    _ value: Integer, in slice: TableSlice, at position: Int
  ) {
    if !slice.isDirty { dirtyCount += 1 }
    slice.store(value, at: position)
  }

  /// Copies of all that is dirty, in the order of the file. Each must be written, or the file is to be latched.
  func stage() -> [StagedWrite] {
    dirtyCount = 0
    return ring.filter { $0.isDirty }.sorted { $0.offset < $1.offset }
      .compactMap { $0.stage(alignment: Self.writeAlignment, pool: file.pool) }
  }

  private func remove(at index: Int) {
    let slice = ring[index]
    slices[slice.offset] = nil
    if slice.isDirty { dirtyCount -= 1 }
    if lastUsed === slice { lastUsed = nil }
    ring.swapAt(index, ring.count - 1)
    ring.removeLast()
    if hand >= ring.count { hand = 0 }
  }
}
