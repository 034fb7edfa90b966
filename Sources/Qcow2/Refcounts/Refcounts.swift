import BlockCore
import Buffers

/// How often each host cluster is referred to, and with it which clusters are free.
///
/// Invariants that keep the file sound whenever it is cut off:
/// 1. A count in memory is never lower than what tables in the file refer to: it rises before a reference to the
///    cluster is stored anywhere, and falls only when the file durably holds the reference no more.
///    So refcount blocks may be written at any time, and a cluster with count 0 may be reused at once.
/// 2. A refcount block is durable, with its own count, before the refcount table names it; a new refcount table is
///    durable before the header names it.
/// 3. Counts are changed by one operation at a time (`turn`), from its search to its last entry.
final class Refcounts {
  let file: ImageFile
  let width: RefcountWidth
  let clusterBits: UInt64
  let entriesPerBlock: UInt64
  let cache: TableCache
  let turn = RangeLock()
  private let writing = RangeLock()

  /// The refcount table: offsets of blocks, 0 where there is none.
  var table: [UInt64]
  var tableOffset: UInt64
  let header: HeaderOnDisk
  /// No cluster below is free.
  var searchStart: UInt64 = 0
  /// Nothing from here on was ever in use.
  var usedEnd: UInt64
  /// Where the next compressed cluster may begin, behind others in the same host cluster: a byte offset.
  var packingOffset: UInt64?

  /// Cluster offsets have 56 bits at most (qcow2.txt, "L2 table entry").
  static let maximumFileByteCount: UInt64 = 1 << 56
  /// So many clusters past the end of the file may count as used, left over from a cut; more is damage.
  static let maximumLeakPastEnd: UInt64 = 1 << 20

  init(file: ImageFile, header: HeaderOnDisk, table: [UInt64], memoryByteCount: Int) {
    self.file = file
    self.header = header
    self.table = table
    let value = header.value
    width = RefcountWidth(order: value.refcountOrder)
    clusterBits = UInt64(value.clusterBits)
    entriesPerBlock = width.entryCount(in: value.clusterByteCount)
    tableOffset = value.refcountTableOffset
    cache = TableCache(
      .refcountBlock, file: file, tableByteCount: Int(value.clusterByteCount), memoryByteCount: memoryByteCount)
    usedEnd = (file.byteCount + value.clusterByteCount - 1) >> clusterBits
  }

  var clusterByteCount: UInt64 { 1 << clusterBits }
  func bytes(of run: ClusterRun) -> ByteRange {
    ByteRange(offset: run.first << clusterBits, length: run.count << clusterBits)
  }
  private var entriesPerSlice: UInt64 { width.entryCount(in: UInt64(cache.sliceByteCount)) }

  /// How often the file's tables refer to `cluster`, references not yet durably removed included.
  func count(of cluster: UInt64) async throws(BlockError) -> UInt64 {
    guard let place = try await slice(of: cluster) else { return 0 }
    return width.count(in: place.slice, at: place.index)
  }

  /// The slice with the cluster's entry, and the entry's index in it; nil if no block covers the cluster.
  func slice(of cluster: UInt64) async throws(BlockError) -> (slice: TableSlice, index: Int)? {
    let (block, entry) = cluster.quotientAndRemainder(dividingBy: entriesPerBlock)
    guard block < UInt64(table.count), table[Int(block)] != 0 else { return nil }
    let (part, index) = entry.quotientAndRemainder(dividingBy: entriesPerSlice)
    let offset = try checkedBlockOffset(Int(block)) + part * UInt64(cache.sliceByteCount)
    while true {
      if let slice = cache.cached(offset) { return (slice, Int(index)) }
      if !cache.makeRoom() { try await write() }
      try await cache.load(offset)
    }
  }

  private func checkedBlockOffset(_ index: Int) throws(BlockError) -> UInt64 {
    let offset = table[index]
    guard file.holds(offset, clusterByteCount) else {
      throw BlockError(.corrupt(Self.damage(ofTableEntry: index, offset)), .read)
    }
    return offset
  }

  /// What is wrong with an entry of the refcount table that names no block that the file has.
  static func damage(ofTableEntry index: Int, _ offset: UInt64) -> String {
    "refcount table entry \(index) names a block at \(offset), which isn't a whole cluster of the file"
  }

  /// Writes all changed blocks. Not durable before the next flush.
  func write() async throws(BlockError) {
    // One at a time: an older copy of a slice must not overtake a newer one.
    let hold = await writing.acquire(ByteRange(offset: 0, length: 1), .exclusive)
    defer { writing.release(hold) }
    for staged in cache.stage() { try await staged.write(to: file) }
  }

  /// Lowers the counts of clusters that nothing durable refers to any more. What stays in `runs` after an error
  /// is still to be lowered.
  func release(_ runs: inout [ClusterRun], givingBack: Bool) async throws(BlockError) {
    let hold = await turn.acquire(ByteRange(offset: 0, length: 1), .exclusive)
    defer { turn.release(hold) }
    while let run = runs.last {
      // A cluster that an entry named as its storage may be anything. Tables may be a snapshot's too.
      try file.checkNotMetadata(bytes(of: run), besides: .snapshotL2Table)
      if givingBack { try await giveBack(run) }
      for cluster in run.first..<run.end {
        try await lower(cluster)
        runs[runs.count - 1] = run.dropping(cluster + 1 - run.first)
      }
      runs.removeLast()
    }
  }

  private func lower(_ cluster: UInt64) async throws(BlockError) {
    guard let place = try await slice(of: cluster) else { throw tooLow(cluster) }
    let count = width.count(in: place.slice, at: place.index)
    guard count > (file.regions.isSnapshotTable(at: cluster << clusterBits) ? 1 : 0) else { throw tooLow(cluster) }
    width.store(count - 1, in: place.slice, of: cache, at: place.index)
    guard count == 1 else { return }
    searchStart = min(searchStart, cluster)
    if let offset = packingOffset, offset >> clusterBits == cluster { packingOffset = nil }
  }

  private func tooLow(_ cluster: UInt64) -> BlockError {
    let error = BlockError(
      .corrupt("the refcount of the cluster at \(cluster << clusterBits) is lower than its use"), .write)
    file.latch(error)
    return error
  }

  /// Gives the storage of those clusters back whose last reference this is. Their counts still keep them.
  private func giveBack(_ run: ClusterRun) async throws(BlockError) {
    var last: [ClusterRun] = []
    for cluster in run.first..<run.end where try await count(of: cluster) == 1 {
      last.appendMerging(ClusterRun(first: cluster, count: 1))
    }
    for run in last {
      await file.giveBack(bytes(of: run))
    }
  }
}

extension Refcounts {
  /// Has a block cover the cluster, which is in use.
  func coverInUse(_ cluster: UInt64) async throws(BlockError) {
    let block = cluster / entriesPerBlock
    guard block < UInt64(table.count) else {
      throw BlockError(.corrupt("the refcount table doesn't reach the end of the file"), .write)
    }
    if table[Int(block)] == 0 { try await addBlockBehindAll(Int(block)) }
  }

  /// Sets a count that turned out wrong, of an image at rest.
  func set(_ cluster: UInt64, to count: UInt64) async throws(BlockError) {
    guard let place = try await slice(of: cluster) else {
      throw BlockError(.corrupt("no refcount block covers the cluster at \(cluster << clusterBits)"), .write)
    }
    guard count <= width.maximum else {
      throw BlockError(
        .corrupt("the cluster at \(cluster << clusterBits) is used \(count) times, more than its refcount can say"),
        .write)
    }
    width.store(count, in: place.slice, of: cache, at: place.index)
    packingOffset = nil
    if count == 0 { searchStart = min(searchStart, cluster) }
  }

  /// Clears counts of clusters past the end of the file: what a growth that was lost leaves behind.
  func clearPastEnd() async throws(BlockError) {
    let end = (file.byteCount + clusterByteCount - 1) >> clusterBits
    for block in Int(min(end / entriesPerBlock, UInt64(table.count)))..<table.count where table[block] != 0 {
      var cluster = max(UInt64(block) * entriesPerBlock, end)
      while cluster < UInt64(block + 1) * entriesPerBlock {
        guard let place = try await slice(of: cluster) else { break }
        let first = cluster - UInt64(place.index)
        cluster = first + entriesPerSlice
        if place.slice.isZero(place.index * width.bits / 8..<cache.sliceByteCount) { continue }
        let used = (place.index..<Int(entriesPerSlice)).filter { width.count(in: place.slice, at: $0) > 0 }
        for index in used { try await set(first + UInt64(index), to: 0) }
      }
    }
  }
}
