import BlockCore
import Buffers

/// A qcow2 image as a block device, over the devices that hold its file and, if it has such, its data file and
/// its backing file.
///
/// **Locks.** Every request holds the guest clusters that it touches: shared while only the bytes behind their
/// mapping are read or overwritten, exclusively while the mapping changes. Tables are looked up and changed between
/// suspensions; guest I/O runs outside of them, on what the mapping said.
///
/// **Discard** makes whole clusters read as zeroes: as zero clusters, so that a backing file never shows through,
/// or as unallocated where there is no backing file. In version 2, which has no zero clusters, an image with a
/// backing file keeps its clusters. Parts of clusters stay as they are, or of subclusters where an image has them.
///
/// **Snapshots.** Clusters that internal snapshots share are copied before they change, as their refcounts say.
package final class Qcow2Image: BlockDevice, @unchecked Sendable {
  // Safe to hand over: confined to its loop, like every device.

  /// The most files that may be stacked: bounds what opening an image can open in turn.
  package static let maximumBackingDepth = 64
  /// So much memory the L1 tables of all files of a chain may take together: eight of the longest that QEMU reads.
  package static let maximumChainTableByteCount = 256 << 20
  /// The largest request.
  static let maximumTransferByteCount = 32 << 20

  let file: ImageFile
  /// Where the guest's data lie: `file`, or a file of their own.
  let data: ImageFile
  let header: HeaderOnDisk
  let refcounts: Refcounts
  let map: ClusterMap
  let expanded: ExpandedClusters
  let backing: (any BlockDevice)?
  let ranges = RangeLock()
  let preparation = RangeLock()
  /// Of an image that was opened to be written, and to keep its bitmaps.
  var bitmapsOnDisk: BitmapsOnDisk?
  /// One operation at a time changes bitmaps, or relies on their staying as they are. It comes before `ranges`.
  let bitmapTurn = RangeLock()
  private(set) var isClosed = false
  private var isPrepared = false
  /// The mark that an earlier opening left counts for this one too, see ``adoptBitmaps(_:)``.
  var keepsTrackingMark = false
  package let isReadOnly: Bool
  /// How many refcounts opening has put right, of an image that the last writer didn't close; nil if it was closed.
  package internal(set) var repairedAtOpening: Int?

  init(
    file: ImageFile, data: ImageFile, header: HeaderOnDisk, refcounts: Refcounts, map: ClusterMap,
    backing: (any BlockDevice)?,
    work: any BackgroundWork, isReadOnly: Bool
  ) {
    self.file = file
    self.data = data
    self.header = header
    self.refcounts = refcounts
    self.map = map
    self.backing = backing
    self.isReadOnly = isReadOnly
    expanded = ExpandedClusters(file: file, type: header.value.compressionType, work: work)
  }

  package var byteCount: UInt64 { header.value.virtualByteCount }
  /// Told of what makes the image refuse to be written, when that happens: once for each of its own files.
  package var onLatch: LatchReport? {
    get { file.onLatch }
    set {
      file.onLatch = newValue
      data.onLatch = newValue
    }
  }
  package var clusterByteCount: Int { Int(file.clusterByteCount) }
  package var compressionType: CompressionType { header.value.compressionType }

  package var limits: BlockLimits {
    BlockLimits(
      requestAlignment: 1, preferredByteCount: 1 << Int(map.unitBits),
      maximumTransferByteCount: Self.maximumTransferByteCount)
  }

  func checkUsable(_ operation: BlockError.Operation) throws(BlockError) {
    if isClosed { throw BlockError(.closed, operation) }
    try file.checkLatch(operation)
  }

  /// The same for changes of the guest's disk: each bitmap that has to record them is recorded.
  func checkChangeable(_ operation: BlockError.Operation) throws(BlockError) {
    try checkUsable(operation)
    guard let bitmap = bitmapsOnDisk?.unrecorded else { return }
    throw BlockError(.notSupported, operation, cause: "the image's bitmap \(bitmap.shortName) isn't recorded")
  }

  /// The whole clusters that a guest range touches.
  func clusters(_ range: ByteRange) -> ByteRange { range.aligned(to: file.clusterByteCount) }

  /// Comes before every change. There is none where tables share a place.
  func prepareToChange(_ operation: BlockError.Operation) async throws(BlockError) {
    if isReadOnly { throw BlockError(.readOnly, operation) }
    if !isPrepared { try await prepareToChange() }
    if let conflict = file.regions.conflict { throw BlockError(.corrupt(conflict), operation) }
  }

  /// Before the first change: what snapshots need is learnt, and bits that vouch for what we don't keep right are
  /// cleared.
  private func prepareToChange() async throws(BlockError) {
    let hold = await preparation.acquire(ByteRange(offset: 0, length: 1), .exclusive)
    defer { preparation.release(hold) }
    if isPrepared { return }
    try await file.learnSnapshotTables()
    map.noteSharedTablesMarkedExclusive()
    guard file.regions.conflict == nil else { return }
    var kept = header.value.keptAutoclear(bitmapsOnDisk)
    if keepsTrackingMark { kept.insert(.trackingMark) }
    try await header.clearAutoclear(besides: kept)
    isPrepared = true
  }

  package func flush() async throws(BlockError) {
    try checkUsable(.flush)
    if isReadOnly { return }
    try await map.flush()
  }

  package func close() async throws(BlockError) {
    let rest = await rest()
    defer { end(rest) }
    if isClosed { return }
    isClosed = true
    var failure: BlockError?
    func keep(_ error: BlockError) { failure = failure ?? error }
    if !isReadOnly { do { try await writeBack() } catch { keep(error) } }
    do { try await file.device.close() } catch { keep(error) }
    if data !== file { do { try await data.device.close() } catch { keep(error) } }
    if let backing { do { try await backing.close() } catch { keep(error) } }
    if let failure { throw failure }
  }

  /// The image is at rest: no request is under way, and none begins.
  struct Rest {
    fileprivate let bitmaps: RangeLock.Hold
    fileprivate let ranges: RangeLock.Hold
  }

  func rest() async -> Rest {
    let bitmaps = await bitmapTurn.acquire(ByteRange(offset: 0, length: 1), .exclusive)
    return Rest(bitmaps: bitmaps, ranges: await ranges.acquire(ByteRange(offset: 0, length: .max), .exclusive))
  }

  func end(_ rest: Rest) {
    ranges.release(rest.ranges)
    bitmapTurn.release(rest.bitmaps)
  }

  /// Leaves the file as it shall lie there: all written, nothing leaked, no larger than needed.
  private func writeBack() async throws(BlockError) {
    try file.checkLatch(.close)
    try await map.settle()
    try await file.trim(to: refcounts.usedEnd << refcounts.clusterBits)
  }
}
