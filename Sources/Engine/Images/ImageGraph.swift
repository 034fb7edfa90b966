import Bitmaps
import BlockCore
import BlockFilters
import Buffers
import EventLoops
import Failures
import Model
import NBD
import Qcow2

/// An image that is open to be written, with all that stands between its users and its files.
///
///     users ──▶ slot ──▶ filters, from the newest to the oldest ──▶ AlignedAccess of a raw file ──▶ format ──▶ file
///                                                              └──▶ tracking and its record for after a crash ──┘
///
/// Above all of these stand the trackers that are kept in sidecars, if the image has some.
///
/// G1. Users hold the slot for as long as the image is open. Filters come and go behind it; nothing else of a live graph
///     is rewired.
/// G2. Every change of what the guest sees passes the slot, whoever makes it. Work on the format itself, such as the
///     repair of its tables, changes nothing of that.
/// G3. The format is reached through ``image``, whatever stands above it.
/// G4. One hold at a time. Changes wait while it lasts, so that who holds bounds it.
actor ImageGraph {
  nonisolated let loop: EventLoop
  nonisolated var unownedExecutor: UnownedSerialExecutor { loop.asUnownedSerialExecutor() }

  nonisolated let location: ImageLocation
  /// Its files and its format.
  nonisolated let image: OpenImage
  /// Where all users' requests go; on `loop`.
  nonisolated let slot: Slot
  /// Whose opening it is: others meet it that want the files.
  nonisolated let use: ImageUse
  nonisolated let tracking: Tracking
  /// Those of the image, of which the enabled ones record what changes; nil where it can have none, or none are
  /// recorded.
  nonisolated let bitmaps: ImageBitmaps?
  /// What came of bitmaps that a killed server had left in use.
  nonisolated let recovery: RecoveryFinding
  /// Tells this time of being open from every other.
  private nonisolated let period = ULID()
  /// What stands below all filters.
  private let base: any BlockDevice
  /// The lowest of them, where changes are recorded.
  private let recorder: DirtyTracking?
  /// From the slot down.
  private(set) var filters: [any GraphFilter] = []
  /// Among them while points in time are open.
  private var fleecing: CopyAside?
  private var holder: GraphHold?
  /// Of all requests that the guest had made when the last point in time ended.
  private(set) var latencyAtLastPoint = LatencyHistogram()

  /// - Parameter bitmaps: those of the image that record its changes.
  init(
    _ image: OpenImage, at location: ImageLocation, tracking: Tracking, recordedBy bitmaps: ImageBitmaps? = nil,
    _ sidecars: SidecarTracking? = nil, recovery: RecoveryFinding = .nothing, for use: ImageUse, on loop: EventLoop
  ) {
    self.loop = loop
    self.location = location
    self.image = image
    self.use = use
    self.tracking = tracking
    self.bitmaps = bitmaps
    self.recovery = recovery
    recorder = bitmaps.map { DirtyTracking($0.top, recorder: $0) }
    let below: any BlockDevice = recorder ?? AlignedAccess.over(image.device)
    base = sidecars.map { $0.over(below, isRecording: tracking == .recorded) } ?? below
    slot = Slot(base)
  }

  /// What a person knows it by.
  nonisolated var name: String { image.name }

  /// Changes whenever the image may have changed. On `loop`.
  nonisolated var generation: FileGeneration { FileGeneration(period: period, changeCount: slot.changeCount) }

  /// Makes everything durable and closes the files; they are closed even if that fails.
  func close() async throws {
    try await telling(about: name) {
      try await closing([slot]) {
        try await slot.flush()
        try await slot.close()
      }
    }
  }

  // MARK: Filters

  /// Puts a filter in: above all others, or right below `upper`. Changes in flight end without it, and all that begin
  /// from now on pass it: who must tell the two apart does it within a hold, after the drain.
  func insert(_ filter: any GraphFilter, below upper: (any GraphFilter)? = nil) {
    let index = upper.map { position(of: $0) + 1 } ?? 0
    filter.next = index < filters.count ? filters[index] : base
    above(index).next = filter
    filters.insert(filter, at: index)
  }

  /// Takes a filter out. What is in flight in it goes on through it to what was below.
  func remove(_ filter: any GraphFilter) {
    let index = position(of: filter)
    above(index).next = filter.next
    filters.remove(at: index)
  }

  private func position(of filter: any GraphFilter) -> Int {
    guard let index = filters.firstIndex(where: { $0 === filter }) else {
      preconditionFailure("a filter of another image")
    }
    return index
  }

  private func above(_ index: Int) -> any GraphFilter { index == 0 ? slot : filters[index - 1] }

  /// Has what changes recorded for after a crash, unless it is.
  func recordForCrashes(_ granularity: UInt64, _ records: CrashRecords?) async {
    if let filter = await bitmaps?.beginCrashRecord(image, granularity, records, on: loop) { recorder?.next = filter }
  }

  // MARK: Points in time

  /// What old bytes are kept in, to be given to ``beginPoint(_:wanted:onTempFull:onLoss:)``.
  func prepareFleecing(_ place: FleecingPlace, pool: BufferPool) async throws -> CopyAside {
    let temp = try await place.makeTemp(for: base.byteCount, on: loop)
    let copyAside = CopyAside(over: base, temp: temp, place, pool: pool, on: loop)
    await copyAside.stockUp()
    return copyAside
  }

  /// Opens a view of this moment, at which no change is in flight.
  /// - Parameters:
  ///   - prepared: keeps the old bytes, unless something does already.
  ///   - wanted: what will be read; nil for all.
  func beginPoint(
    _ prepared: CopyAside, wanted: DirtyBitmap?, onTempFull: CopyBeforeWrite.OnTempFull,
    onLoss: @escaping @Sendable (PointInTimeLoss) -> Void
  ) -> PointInTimeView {
    let fleecing = fleecing ?? prepared
    if self.fleecing == nil {
      insert(fleecing.filter)
      self.fleecing = fleecing
    } else {
      prepared.close()
    }
    return fleecing.filter.begin(wanted: wanted, onTempFull: onTempFull, onLoss: onLoss)
  }

  /// Ends a view; with the last one the guest's writes pass nothing more.
  /// - Parameter latency: of all requests of the guest so far.
  func endPoint(_ view: PointInTimeView, latency: LatencyHistogram) async {
    latencyAtLastPoint = latency
    try? await view.close()
    guard let fleecing, !fleecing.filter.hasPoints else { return }
    remove(fleecing.filter)
    self.fleecing = nil
    fleecing.close()
  }

  /// Gives up all points in time, so that nothing waits for them.
  func endPoints() { fleecing?.filter.endPoints() }

  /// Keeps changes back that haven't begun; nil while another hold lasts.
  func hold() -> GraphHold? {
    guard holder == nil else { return nil }
    let hold = GraphHold()
    holder = hold
    slot.hold()
    return hold
  }

  /// Waits until no change is in flight.
  /// - Returns: false if the hold ended before that.
  func drain(_ hold: GraphHold) async -> Bool {
    guard holder === hold else { return false }
    return await slot.drain() && holder === hold
  }

  /// Lets the changes go that were kept back. Does nothing if the hold has ended.
  func release(_ hold: GraphHold) {
    guard holder === hold else { return }
    holder = nil
    slot.release()
  }
}

/// Tells one hold of a graph from others, so that none is released by an earlier one's timer.
final class GraphHold: Sendable {}

/// A filter that can slide into a live graph: what stands behind it may change.
package protocol GraphFilter: BlockFilter {
  var next: any BlockDevice { get set }
}

extension Slot: GraphFilter {}
extension CopyBeforeWrite: GraphFilter {}
