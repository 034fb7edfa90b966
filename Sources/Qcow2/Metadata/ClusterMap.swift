import BlockCore
import Buffers

/// The L1 and L2 tables: which guest cluster is stored where. It answers with mappings and does no guest I/O.
///
/// Invariants, with ``Refcounts``, that leave at most leaked clusters whenever the file is cut off:
/// 1. An entry in memory changes only after the data (or the table) it will name was written.
/// 2. A changed entry reaches the file only after a flush that made that data and its refcount durable.
/// 3. A cluster that an entry no longer names is released only after a flush that made the entry's change durable.
/// 4. An L2 table is changed only while the L1 entry says that it is exclusive; making it so (new, or copied from a
///    shared one) is done by one operation for each L1 entry (`tables`), the others wait.
/// All of 2 and 3 happen in `commit` (ClusterMap+Commit.swift), one at a time.
final class ClusterMap {
  let file: ImageFile
  /// What holds the guest's data: `file`, or a file of its own.
  let data: ImageFile
  let header: HeaderOnDisk
  let refcounts: Refcounts
  let cache: TableCache
  let clusterBits: UInt64
  let format: L2Format

  /// A table maps 2^tableBits clusters.
  private let tableBits: UInt64
  private let entriesPerSlice: UInt64
  /// Subclusters or clusters: what has a mapping of its own.
  let unitBits: UInt64

  var l1: [L1Entry]
  var l1Offset: UInt64
  /// Sectors of the L1 table that the file doesn't have yet.
  var dirtyL1Sectors: Set<Int> = []
  /// Clusters that no entry in memory names any more.
  var unreferenced: [ClusterRun] = []
  let tables = RangeLock()

  let commits = RangeLock()
  var flushesAsked: UInt64 = 0
  var flushesDone: UInt64 = 0
  /// Entries were written since the last flush of the file.
  var hasUnflushedEntries = false
  var isCommitting = false

  static let l1EntriesPerSector = 64
  /// When so many slices are dirty, or so many runs wait to be released, the operation that notices commits.
  static let maximumUnreferencedRuns = 4096

  init(
    file: ImageFile, data: ImageFile, header: HeaderOnDisk, refcounts: Refcounts, l1: [L1Entry], memoryByteCount: Int
  ) {
    self.file = file
    self.data = data
    self.header = header
    self.refcounts = refcounts
    self.l1 = l1
    l1Offset = header.value.l1Offset
    clusterBits = UInt64(header.value.clusterBits)
    format = L2Format(header.value)
    cache = TableCache(.l2Table, file: file, tableByteCount: 1 << Int(clusterBits), memoryByteCount: memoryByteCount)
    tableBits = clusterBits - UInt64(format.entryByteCount.trailingZeroBitCount)
    entriesPerSlice = UInt64(cache.sliceByteCount / format.entryByteCount)
    unitBits = format.unitBits
  }

  var clusterByteCount: UInt64 { 1 << clusterBits }

  /// The L1 entry's index for a guest cluster.
  func l1Index(_ cluster: UInt64) -> Int { Int(cluster >> tableBits) }

  /// Guest clusters from `cluster` to the end of its L2 table.
  func clustersLeftInTable(_ cluster: UInt64) -> UInt64 {
    (1 << tableBits) - cluster & ((1 << tableBits) - 1)
  }

  /// Guest clusters from `cluster` to the end of its slice.
  func clustersLeftInSlice(_ cluster: UInt64) -> UInt64 { entriesPerSlice - cluster % entriesPerSlice }

  /// Place of the cluster's slice in the file; `entry` names its table.
  func sliceOffset(_ entry: L1Entry, _ cluster: UInt64) -> UInt64 {
    let index = cluster & ((1 << tableBits) - 1)
    return entry.tableOffset + index / entriesPerSlice * UInt64(cache.sliceByteCount)
  }

  /// Place of the cluster's entry in its slice.
  func entryPosition(_ cluster: UInt64) -> Int { Int(cluster % entriesPerSlice) * format.entryByteCount }

  /// True if the unit is the first of its slice.
  func beginsSlice(_ unit: UInt64) -> Bool { unit & ((entriesPerSlice << format.unitsPerClusterBits) - 1) == 0 }

  func entry(_ cluster: UInt64, in slice: TableSlice) -> L2Entry {
    let position = entryPosition(cluster)
    return L2Entry(
      raw: slice.entry(at: position), bitmap: format.hasSubclusters ? slice.entry(at: position + 8) : 0)
  }

  func store(_ entry: L2Entry, for cluster: UInt64, in slice: TableSlice) {
    let position = entryPosition(cluster)
    cache.store(entry.raw, in: slice, at: position)
    if format.hasSubclusters { cache.store(entry.bitmap, in: slice, at: position + 8) }
  }

  /// What the table says of a unit: a subcluster, or a cluster.
  func meaning(_ unit: UInt64, in slice: TableSlice) -> L2Entry.Meaning {
    let cluster = unit >> format.unitsPerClusterBits
    let meaning = entry(cluster, in: slice).meaning(
      format, subcluster: unit & ((1 << format.unitsPerClusterBits) - 1), fileByteCount: file.byteCount,
      storageByteCount: data.byteCount)
    return format.hasDataFile ? meaning.checked(against: unit << unitBits) : meaning
  }

  func checkTable(_ entry: L1Entry, _ index: Int, _ operation: BlockError.Operation) throws(BlockError) {
    guard file.holdsTable(of: entry) else { throw BlockError(.corrupt(entry.damage(index)), operation) }
  }

  /// A table that a snapshot needs must not be changed in place: an L1 entry that allows it contradicts the snapshot.
  func noteSharedTablesMarkedExclusive() {
    guard file.regions.hasSnapshotTables else { return }
    for (index, entry) in l1.enumerated() where entry.isExclusive && file.regions.isSnapshotTable(at: entry.tableOffset)
    {
      file.regions.note(
        "L1 entry \(index) calls the L2 table at \(entry.tableOffset) its own, and a snapshot uses it too")
    }
  }

  /// Reads a slice into the cache; look for it again afterwards.
  func load(_ offset: UInt64) async throws(BlockError) {
    while !cache.makeRoom() { try await commit() }
    try await cache.load(offset)
  }
}
