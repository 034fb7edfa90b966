import Bitmaps
import BlockCore

/// What is known of a disk's bytes at one moment: grain by grain, where they are by now.
///
/// P1. A grain is **pending** as long as the source holds its old bytes. It ceases to be so once: when it is kept (stored,
///     or remembered as zero or the backing file's), when it is released, or when the point is lost.
/// P2. **Readable** are the grains that are wanted and not released.
/// P3. What is released is freed when no read that began before is left (C5).
final class PointInTime {
  /// Where the old bytes of a grain are.
  enum Content {
    /// In the source: nothing was changed since.
    case source
    case zero
    case backing
    case stored(StoredGrain)
    /// Not to be had: never wanted, or released and freed.
    case none
  }

  let grains: Grains
  let onTempFull: CopyBeforeWrite.OnTempFull
  private let store: FleecingStore
  private(set) var pending: DirtyBitmap
  private(set) var readable: DirtyBitmap
  private var zeroes: DirtyBitmap
  private var backed: DirtyBitmap
  private var stored: [UInt64: StoredGrain] = [:]
  /// Grains that are stored, and the most that were at one time.
  var storedCount: Int { stored.count }
  private(set) var storedHighWaterCount = 0
  private(set) var loss: PointInTimeLoss?
  var report = CopyBeforeWriteReport()

  /// Reads under way, in the order of their beginning.
  private var reads: [UInt64] = []
  private var nextRead: UInt64 = 0
  /// Ranges that were released, and the first read that began after.
  private var released: [(range: ByteRange, before: UInt64)] = []

  init(_ grains: Grains, wanted: DirtyBitmap?, onTempFull: CopyBeforeWrite.OnTempFull, store: FleecingStore) {
    self.grains = grains
    self.onTempFull = onTempFull
    self.store = store
    var all = grains.emptyBitmap()
    if let wanted { all.formUnion(wanted) } else { all.setAll() }
    pending = all
    readable = all
    zeroes = grains.emptyBitmap()
    backed = grains.emptyBitmap()
  }

  func content(of grain: ByteRange) -> Content {
    if pending.contains(grain.offset) { return .source }
    if zeroes.contains(grain.offset) { return .zero }
    if backed.contains(grain.offset) { return .backing }
    return stored[grain.offset].map { .stored($0) } ?? .none
  }

  /// Where the first grain begins that is pending, of those with a byte of the range.
  func firstNeeded(in range: ByteRange) -> UInt64? {
    let whole = grains.rounded(range)
    return pending.nextDirty(from: whole.offset, before: whole.end)?.offset
  }

  func needs(_ range: ByteRange) -> Bool { firstNeeded(in: range) != nil }

  // MARK: Keeping

  /// Notes where the old bytes of a grain are from now on. False if it needs none.
  @discardableResult
  func keep(_ grain: ByteRange, as content: Content) -> Bool {
    guard pending.contains(grain.offset) else { return false }
    pending.clear(grain)
    switch content {
    case .zero: zeroes.set(grain)
    case .backing: backed.set(grain)
    case .stored(let bytes):
      bytes.userCount += 1
      stored[grain.offset] = bytes
      storedHighWaterCount = max(storedHighWaterCount, stored.count)
    case .source, .none: preconditionFailure("nothing is kept")
    }
    return true
  }

  /// Whole grains that no read will ask for any more.
  func release(_ range: ByteRange) {
    pending.clear(range)
    readable.clear(range)
    released.append((range, nextRead))
    freeReleased()
  }

  private func freeReleased() {
    var count = 0
    for (range, before) in released {
      if let oldest = reads.first, oldest < before { break }
      free(range)
      count += 1
    }
    released.removeFirst(count)
  }

  private func free(_ range: ByteRange) {
    zeroes.clear(range)
    backed.clear(range)
    let isShort = range.length / grains.grainByteCount < UInt64(stored.count)
    let offsets = isShort ? grains.each(of: range).map(\.offset) : stored.keys.filter { range.range.contains($0) }
    for offset in offsets {
      if let grain = stored.removeValue(forKey: offset) { store.free(grain) }
    }
  }

  /// From now on nothing can be read, and nothing is needed. The first reason stays.
  func lose(_ reason: PointInTimeLoss) {
    guard loss == nil else { return }
    loss = reason
    pending.clearAll()
    readable.clearAll()
    zeroes.clearAll()
    backed.clearAll()
    released = []
    let all = stored
    stored = [:]
    for grain in all.values { store.free(grain) }
  }

  // MARK: Reads

  func beginRead() -> UInt64 {
    reads.append(nextRead)
    nextRead += 1
    return nextRead - 1
  }

  func endRead(_ read: UInt64) {
    if let index = reads.firstIndex(of: read) { reads.remove(at: index) }
    if !released.isEmpty { freeReleased() }
  }
}
