import Bitmaps
import BlockCore
import BlockFilters
import Buffers
import EventLoops
import Model
import NBD
import Repositories

/// An attached image's part in a backup: from before the moment to the backup's end, while its guest goes on.
///
/// A1. What can wait or fail comes before the moment: what old bytes are kept in, the record for after a crash, the bits
///     that are loaded. From then until the moment nobody else changes the image's bitmaps.
/// A2. At the moment, which waits for nothing and can't fail, the view begins, and the tracker's new bitmap records.
/// A3. When the backup is durable the new bitmap takes the old one's place (``ImageBitmaps``, B7). When it fails the new one
///     is dropped.
final class AttachedPoint: @unchecked Sendable {
  // Safe to hand over: confined to the loop of its image.

  let graph: ImageGraph
  private let use: ImageUse
  private let id: ImageID
  private let users: AttachedImages
  private enum Stage {
    case joined
    /// What old bytes will be kept in, unless the graph has something for that by the moment.
    case prepared(CopyAside)
    case open(PointInTimeView)
    /// What the image's guest paid for it.
    case ended(CopyBeforeWriteReport)
  }

  private var stage = Stage.joined
  private var latency: GuestLatency
  /// Of the guest's requests between the moment and the end of the view.
  private var latencyDuring = LatencyHistogram()
  private var hasReservation = false
  /// What records since the moment, and has no place in the file yet.
  private var recorded: (checkpoint: NewCheckpoint, tracker: TrackerName)?

  /// From the moment on, until all was read.
  var view: PointInTimeView? { if case .open(let view) = stage { view } else { nil } }

  /// What the image's guest paid for it, once all was read.
  var guestImpact: GuestImpact? {
    guard case .ended(let report) = stage else { return nil }
    return GuestImpact(report, latencyBefore: latency.before, during: latencyDuring)
  }

  /// Joins the image's users.
  /// - Parameter latency: of all requests of its guest so far.
  /// - Throws: `imageNotAttached`
  init(
    _ graph: ImageGraph, _ id: ImageID, among users: AttachedImages, for use: ImageUse,
    latency: @escaping @Sendable () -> LatencyHistogram
  ) throws(DomainError) {
    (self.graph, self.id, self.users, self.use) = (graph, id, users, use)
    self.latency = GuestLatency(latency)
    guard try users.join(id, use) === graph else {
      users.leave(id, use)
      throw DomainError(.imageNotAttached, "\(graph.name) was attached anew", remedy: "try again")
    }
  }

  // MARK: Before the moment

  /// Keeps changes of its bitmaps away until the moment has passed.
  nonisolated(nonsending)
    func reserveBitmaps(on loop: EventLoop) async throws
  {
    guard let bitmaps = graph.bitmaps else { return }
    try await bitmaps.reservePatiently(on: loop)
    hasReservation = true
  }

  /// - Parameter checkpoint: what will be recorded from the moment on; nil: nothing.
  nonisolated(nonsending)
    func prepare(
      _ checkpoint: NewCheckpoint?, _ place: FleecingPlace, _ records: CrashRecords?, pool: BufferPool
    ) async throws
  {
    if let checkpoint { await graph.recordForCrashes(checkpoint.granularity, records) }
    stage = .prepared(try await graph.prepareFleecing(place, pool: pool))
  }

  // MARK: The moment

  /// - Parameter backup: told what it gets: what has changed by the moment, and whether its checkpoint counts from it.
  func take(in graph: isolated ImageGraph, for backup: inout BegunBackup, control: any JobControl) {
    guard case .prepared = stage else { return }
    var wanted: DirtyBitmap?
    if var changes = backup.changes {
      if let name = backup.countedBy, let bits = graph.bitmaps?.set[name]?.bits { changes.formUnion(bits) }
      backup.setChanges(changes, byteCount: graph.slot.byteCount)
      for leaf in backup.sample {
        changes.set(ByteRange(offset: leaf * UInt64(HashTree.grainByteCount), length: 1))
      }
      wanted = changes
    }
    let name = graph.name
    take(in: graph, wanted: wanted, onTempFull: CopyBeforeWrite.OnTempFull(backup.order.onTempFull)) { loss in
      if loss != .ended { control.log(.error, "what \(name) held at the moment is lost: \(loss)") }
    }
    guard let checkpoint = backup.checkpoint else { return }
    if !record(checkpoint, of: backup.order.tracker, in: graph) { backup.checkpoint = nil }
  }

  /// Begins to record for a checkpoint. False if the image can't record one more.
  func record(_ checkpoint: NewCheckpoint, of tracker: TrackerName, in graph: isolated ImageGraph) -> Bool {
    guard graph.bitmaps?.begin(checkpoint, of: tracker) == true else { return false }
    recorded = (checkpoint, tracker)
    return true
  }

  /// Begins the view.
  /// - Parameter wanted: what will be read of it; nil for all.
  func take(
    in graph: isolated ImageGraph, wanted: DirtyBitmap?, onTempFull: CopyBeforeWrite.OnTempFull,
    onLoss: @escaping @Sendable (PointInTimeLoss) -> Void
  ) {
    guard case .prepared(let aside) = stage else { return }
    latency.momentHasCome(since: graph.latencyAtLastPoint)
    stage = .open(graph.beginPoint(aside, wanted: wanted, onTempFull: onTempFull, onLoss: onLoss))
  }

  /// Lets others change the bitmaps again.
  func momentHasPassed() {
    if hasReservation { graph.bitmaps?.free() }
    hasReservation = false
  }

  // MARK: After it

  /// Ends the view: the guest's writes cost nothing more.
  nonisolated(nonsending)
    func endView() async
  {
    switch stage {
    case .joined, .ended: return
    case .prepared(let fleecing):
      stage = .ended(CopyBeforeWriteReport())
      fleecing.close()
    case .open(let view):
      stage = .ended(view.report)
      latencyDuring = latency.during
      await graph.endPoint(view, latency: latency.total())
    }
  }

  /// The pace that keeps the guest's requests within a budget, from the moment on.
  func pace(within budget: GuestLatencyBudget, control: any JobControl) -> any CopyPace {
    let limit: GuestPace.Limit =
      switch budget {
      case .percent(let percent): .times(1 + Double(percent) / 100, before: latency.before)
      case .microseconds(let microseconds): .microseconds(Double(microseconds))
      }
    let name = graph.name
    return GuestPace(limit, now: Double(MonotonicTime.now.nanoseconds) / 1e9, total: latency.total) { microseconds in
      control.log(
        .info, "requests of the guest of \(name) take longer than \(Int(microseconds)) µs: the backup slows down")
    }
  }

  /// Runs a change of the tracker's bitmaps.
  nonisolated(nonsending)
    func changeTracker(
      on loop: EventLoop, _ change: nonisolated(nonsending) (ImageBitmaps) async throws -> Void
    ) async throws
  {
    guard let bitmaps = graph.bitmaps else { return }
    try await bitmaps.reservePatiently(on: loop)
    defer { bitmaps.free() }
    try await change(bitmaps)
  }

  /// Lets the image go. What recorded for a checkpoint that wasn't set records no more.
  nonisolated(nonsending)
    func end() async
  {
    momentHasPassed()
    await endView()
    if let (checkpoint, tracker) = recorded { graph.bitmaps?.drop(checkpoint, of: tracker) }
    users.leave(id, use)
  }
}
