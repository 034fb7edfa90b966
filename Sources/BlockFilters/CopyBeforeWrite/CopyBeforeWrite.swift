import Bitmaps
import BlockCore
import Buffers

/// Keeps the old bytes of a disk before a change reaches it, for as long as points in time are open.
///
///     guest ──▶ Slot ──▶ CopyBeforeWrite ──▶ … ──▶ source ◀── view of a point: what is pending
///                             │ old bytes, before they change    ▲
///                             └──▶ FleecingStore: memory, temp ──┘ what is kept
///
/// C1. A point begins while no change is in flight: within a hold of the slot above, after its drain.
/// C2. A change is let go when no point needs a byte of its grains any more: each is kept, released, or was never wanted.
///     What is kept stays so. No wait lies between this look and the device.
/// C3. One copy of a grain is under way at a time, registered before its first wait: the grain's exclusive lock. All
///     changes of the grain wait for it. So its bytes are read while none of its changes is in flight.
/// C4. Nobody waits for a reader. A read of the source for a view looks again when it ends, and takes every grain that was
///     kept meanwhile from where it is kept.
/// C5. Kept grains are freed when no read is left that began before they were released.
/// C6. A change waits for copying aside no longer than the limit. What can't be read or kept, or is late, costs the point
///     and not the change; `onTempFull` may say otherwise.
/// C7. From the instant when a point is lost, every read of its view fails, those in flight too. A copy that no point needs
///     any more is left to the device: nothing waits for it, and what it reads isn't used.
/// C8. Reads are shared. A copy takes the bytes of a reader's read of the source that is under way, and a reader those of a
///     copy. The reads of one reader are short, so that a change waits for one short read.
package final class CopyBeforeWrite: BlockFilter, @unchecked Sendable {
  // Safe to hand over: confined to its loop, like every device.

  package enum OnTempFull: Hashable, Sendable {
    /// The point is lost, and the change goes on.
    case breakBackup
    /// The change waits for room, and goes on without after that time.
    case throttle(latency: Duration)
    /// The change fails with `noSpace`, and the point stays.
    case breakGuestWrite
  }

  package struct Options: Sendable {
    /// Of points that don't say otherwise.
    package var onTempFull = OnTempFull.breakBackup
    /// How long a change waits for copying aside at most. Its own time at the device doesn't count.
    package var guestWriteTimeout = Duration.seconds(2)
    /// The longest copy, and the longest read of the source for a view; a grain is read as a whole in any case.
    package var copyByteCount: UInt64

    package init(copyByteCount: UInt64 = 256 << 10) { self.copyByteCount = copyByteCount }
  }

  /// A zeroing that must be fast isn't if more than this had to be copied first.
  static let fastByteCount: UInt64 = 1 << 20

  @exclusivity(unchecked) package var next: any BlockDevice
  /// What grains at depth 2 and more read as, if they may be remembered rather than copied.
  let backing: (any BlockDevice)?
  let store: FleecingStore
  let loop: any HomeLoop
  let pool: BufferPool
  let options: Options
  /// The open ones, oldest first.
  var points: [OpenPoint] = []
  /// Copies under way, by the offset of each of their grains.
  var copies: [UInt64: GrainCopy] = [:]
  /// Of readers, under way.
  var sourceReads: [SourceRead] = []
  /// Changes that wait for copying aside, by number.
  var waits: [UInt64: ChangeWait] = [:]
  var nextWait: UInt64 = 0
  var isTimerSet = false

  /// - Parameters:
  ///   - backing: the disk's backing file. Nothing may change it.
  ///   - store: keeps whole grains; it stays the caller's to close.
  package init(
    _ next: any BlockDevice, backing: (any BlockDevice)? = nil, store: FleecingStore, options: Options = Options(),
    pool: BufferPool, on loop: any HomeLoop
  ) {
    precondition(store.grainByteCount % UInt64(next.limits.requestAlignment) == 0)
    self.next = next
    self.backing = backing
    self.store = store
    self.options = options
    self.pool = pool
    self.loop = loop
  }

  /// The grain for a disk and a temp: at least as large as all of these, and so large that a bitmap can count them.
  package static func grainByteCount(
    for source: any BlockDevice, temp: (any BlockDevice)?, atLeast byteCounts: [UInt64] = []
  ) -> UInt64 {
    let alignments = [source, temp].compactMap { $0.map { UInt64($0.limits.requestAlignment) } }
    let least = (alignments + byteCounts).reduce(4096, max)
    var grain: UInt64 = 4096
    while grain < least || !DirtyBitmap.isPossible(granularity: grain, byteCount: source.byteCount) { grain *= 2 }
    return grain
  }

  // MARK: Points in time

  /// Opens a view of this moment (C1).
  /// - Parameters:
  ///   - wanted: what will be read of it; nil for all. Grains that it doesn't touch cost nothing.
  ///   - onTempFull: nil: as the options say. Of several points that need a grain those go first that are to be lost.
  ///   - onLoss: told on the loop when the point is lost.
  package func begin(
    wanted: DirtyBitmap? = nil, onTempFull: OnTempFull? = nil,
    onLoss: @escaping @Sendable (PointInTimeLoss) -> Void = { _ in }
  ) -> PointInTimeView {
    let grains = Grains(byteCount: next.byteCount, grainByteCount: store.grainByteCount)
    let point = PointInTime(grains, wanted: wanted, onTempFull: onTempFull ?? options.onTempFull, store: store)
    points.append(OpenPoint(point: point, onLoss: onLoss))
    return PointInTimeView(of: point, in: self)
  }

  /// Loses all points, so that no change waits for them any more.
  package func endPoints(_ reason: PointInTimeLoss = .ended) { lose(reason) { _ in true } }

  package var hasPoints: Bool { !points.isEmpty }

  /// Loses the points for which `isMeant` holds.
  func lose(_ reason: PointInTimeLoss, where isMeant: (PointInTime) -> Bool) {
    let lost = points.filter { isMeant($0.point) }
    guard !lost.isEmpty else { return }
    points.removeAll { open in lost.contains { $0.point === open.point } }
    for open in lost { open.point.lose(reason) }
    abandonCopies()
    for open in lost { open.onLoss(reason) }
  }

  // MARK: Changes

  package func tryBegin(_ kind: BlockChange, _ range: ByteRange) -> Bool {
    if case .resize = kind { return false }
    return firstNeeded(in: range) == nil
  }

  package func change(
    _ kind: BlockChange, _ range: ByteRange, _ perform: (ByteRange) async throws(BlockError) -> Void
  ) async throws(BlockError) {
    if case .resize = kind {
      if !range.isEmpty { endPoints(.resized) }
      return try await perform(range)
    }
    if case .writeZeroes(let options) = kind, options.contains(.onlyIfFast), range.length > Self.fastByteCount,
      firstNeeded(in: range) != nil
    {
      throw BlockError(.notFast, .writeZeroes, range)
    }
    let wait = beginWait(range)
    defer { endWait(wait) }
    while let offset = firstNeeded(in: range) {
      let copy = copies[offset] ?? startCopy(from: offset, of: range)
      await copy.waitForEnd()
      if case .refused = copy.state {
        throw BlockError(
          .noSpace, kind.operation, range, cause: "there is no room for the bytes that a point in time needs")
      }
    }
    endWait(wait)
    try await perform(range)
  }

  /// The first byte of the first grain of the range that some point needs.
  func firstNeeded(in range: ByteRange) -> UInt64? {
    var first: UInt64?
    for open in points {
      if let offset = open.point.firstNeeded(in: range) { first = min(first ?? offset, offset) }
    }
    return first
  }

  /// Ends all points: a view doesn't outlive its source.
  package func close() async throws(BlockError) {
    endPoints()
    try await next.close()
  }
}

struct OpenPoint {
  let point: PointInTime
  let onLoss: @Sendable (PointInTimeLoss) -> Void
}
