import BlockCore
import Buffers

/// Reads every table of an image at rest, counts the references to each host cluster, and compares them with the
/// refcounts (qcow2.txt, "Host cluster management" and "Cluster mapping"). It changes nothing by itself.
///
/// Tables are read from the file, one at a time, beside the caches. Memory: one table, the counts of one window,
/// and the L1 table at hand. Work: each table once for each L1 table that names it, for each window.
final class MetadataWalk {
  /// The L1 tables of all snapshots together may be this long; more isn't walked.
  static let maximumSnapshotL1ByteCount = 256 << 20
  /// Files with more windows than this aren't walked.
  static let maximumWindowCount: UInt64 = 1024

  private let file: HostFile
  private let header: Qcow2Header
  private let refcountTable: [UInt64]
  private let width: RefcountWidth
  private let format: L2Format
  private let clusterBits: UInt64
  private var counts = ReferenceCounts(window: 0..<0)
  private var report = CheckReport()
  /// What doesn't depend on the window is told in the first pass alone.
  private var isFirstPass = true
  private var snapshotTableByteCount: UInt64 = 0
  /// Corruptions of the tables themselves: while there are such, nobody knows what is in use.
  private(set) var damagedTableCount = 0
  /// Clusters in use more often than their refcounts say.
  private(set) var lowRefcountCount = 0
  /// Entries that call metadata guest data, as far as the image's places are known: counting these clusters twice
  /// would only hide it.
  private(set) var overlappingCount = 0
  /// Takes the counts that are right, where they shall be put right.
  private var repaired: Refcounts?
  private let progress: CheckProgress
  /// Entries of L1 tables that were gone through, of how many in all windows.
  private var doneEntryCount = 0
  private var allEntryCount = 0

  init(file: HostFile, header: Qcow2Header, refcountTable: [UInt64], progress: @escaping CheckProgress = { _ in }) {
    self.file = file
    self.progress = progress
    self.header = header
    self.refcountTable = refcountTable
    width = RefcountWidth(order: header.refcountOrder)
    clusterBits = UInt64(header.clusterBits)
    fileClusterCount = (file.byteCount + header.clusterByteCount - 1) >> clusterBits
    format = L2Format(header)
  }

  private var clusterByteCount: UInt64 { 1 << clusterBits }
  private var dataByteCount: UInt64 { (file.dataFile ?? file).byteCount }
  /// As it was at the beginning: a repair may make the file longer.
  private let fileClusterCount: UInt64

  nonisolated(nonsending)
    func run(repairing refcounts: Refcounts? = nil) async throws(BlockError) -> CheckReport
  {
    repaired = refcounts
    let snapshots: [Snapshot]
    do {
      (snapshots, snapshotTableByteCount) = try await Qcow2Description.readSnapshotTable(header, file.device, file.pool)
    } catch {
      throw error.asBlockError(.read)
    }
    let l1ByteCount = snapshots.reduce(0) { $0 + $1.l1EntryCount * 8 }
    let windows = (fileClusterCount + ReferenceCounts.windowClusterCount - 1) / ReferenceCounts.windowClusterCount
    guard l1ByteCount <= Self.maximumSnapshotL1ByteCount, windows <= Self.maximumWindowCount else {
      throw BlockError(.notSupported, .read, cause: "the image's tables are too large to check")
    }
    allEntryCount = (Int(l1ByteCount) / 8 + header.l1EntryCount) * Int(max(windows, 1))
    for number in 0..<max(windows, 1) {
      let start = number * ReferenceCounts.windowClusterCount
      counts = ReferenceCounts(
        window: start..<max(start, min(start + ReferenceCounts.windowClusterCount, fileClusterCount)))
      try await countReferences(snapshots)
      try await compare()
      isFirstPass = false
    }
    return report
  }

  private func add(_ kind: CheckReport.Finding.Kind, _ place: @autoclosure () -> String) {
    guard isFirstPass else { return }
    if kind == .corruption { damagedTableCount += 1 }
    report.add(kind, place())
  }

  // MARK: References

  nonisolated(nonsending)
    private func countReferences(_ snapshots: [Snapshot]) async throws(BlockError)
  {
    counts.add(0..<1)
    reference("refcount table", header.refcountTableOffset, UInt64(refcountTable.count) * 8)
    for (index, offset) in refcountTable.enumerated() where offset != 0 {
      reference("refcount table entry \(index)", offset, clusterByteCount)
    }
    try await walk("L1 table", header.l1Offset, header.l1EntryCount, isActive: true)
    reference("snapshot table", header.snapshotsOffset, snapshotTableByteCount)
    for snapshot in snapshots {
      try await walk("snapshot \(snapshot.id)'s L1 table", snapshot.l1Offset, snapshot.l1EntryCount, isActive: false)
    }
    try await referenceBitmaps()
  }

  /// Counts whole clusters that metadata takes.
  private func reference(_ name: @autoclosure () -> String, _ offset: UInt64, _ byteCount: UInt64) {
    guard byteCount > 0 else { return }
    let (end, overflow) = offset.addingReportingOverflow(byteCount)
    guard offset & (clusterByteCount - 1) == 0, offset != 0, !overflow, end <= fileClusterCount << clusterBits else {
      return add(.corruption, "\(name()): \(byteCount) bytes at \(offset) aren't clusters of the file")
    }
    counts.add(offset >> clusterBits..<(end + clusterByteCount - 1) >> clusterBits)
  }

  nonisolated(nonsending)
    private func referenceBitmaps() async throws(BlockError)
  {
    do {
      guard let directory = try header.bitmapDirectory() else { return }
      reference("bitmap directory", directory.offset, directory.byteCount)
      for bitmap in try await Qcow2Description.readBitmaps(header, file.device, file.pool) {
        let byteCount = UInt64(bitmap.tableEntryCount) * 8
        reference("bitmap \(bitmap.name)'s table", bitmap.tableOffset, byteCount)
        guard bitmap.tableOffset <= file.byteCount, byteCount <= file.byteCount - bitmap.tableOffset else { continue }
        try await forEachEntry(at: bitmap.tableOffset, count: bitmap.tableEntryCount) { index, entry in
          let offset = entry & L2Entry.offsetMask
          if offset != 0 { reference("bitmap \(bitmap.name)'s entry \(index)", offset, clusterByteCount) }
        }
      }
    } catch let error as Qcow2Error {
      throw error.asBlockError(.read)
    } catch let error as BlockError {
      throw error
    } catch {
      throw BlockError(.corrupt("bitmaps: \(error)"), .read)
    }
  }

  // MARK: L1 and L2 tables

  nonisolated(nonsending)
    private func walk(_ name: String, _ offset: UInt64, _ count: Int, isActive: Bool) async throws(BlockError)
  {
    reference(name, offset, UInt64(count) * 8)
    guard offset <= file.byteCount, UInt64(count) * 8 <= file.byteCount - offset else { return }
    var tables: [UInt64] = []
    try await forEachEntry(at: offset, count: count) { index, raw in
      if raw == 0 { return }
      let entry = L1Entry(raw: raw)
      if entry.raw & L1Entry.reservedMask != 0 || entry.tableOffset == 0 {
        add(.corruption, "\(name), entry \(index): \(String(raw, radix: 16)) names no table")
      }
      // What it may name isn't called a leak.
      if entry.tableOffset != 0 { tables.append(raw) }
    }
    // In the order of the file; a table named twice is counted twice and walked once.
    tables.sort { L1Entry(raw: $0).tableOffset < L1Entry(raw: $1).tableOffset }
    var last: UInt64 = 0
    try await advance(count - tables.count)
    for raw in tables {
      let entry = L1Entry(raw: raw)
      let isRepeated = entry.tableOffset == last
      last = entry.tableOffset
      if isRepeated { add(.corruption, "\(name): the L2 table at \(last) is named twice") }
      try await walkTable(entry, name, isActive: isActive, isRepeated: isRepeated)
      try await advance(1)
    }
  }

  nonisolated(nonsending)
    private func advance(_ entryCount: Int) async throws(BlockError)
  {
    doneEntryCount += entryCount
    try await progress(Double(doneEntryCount) / Double(max(1, allEntryCount)))
  }

  nonisolated(nonsending)
    private func walkTable(_ entry: L1Entry, _ name: String, isActive: Bool, isRepeated: Bool) async throws(BlockError)
  {
    let offset = entry.tableOffset
    reference("\(name): the L2 table", offset, clusterByteCount)
    guard offset & (clusterByteCount - 1) == 0, offset < file.byteCount, !isRepeated else { return }
    if isActive {
      try await checkCopied(entry.isExclusive, offset >> clusterBits, "L1 entry for the table at \(offset)")
    }
    var active: [(raw: UInt64, host: UInt64)] = []
    try await forEachL2Entry(at: offset) { index, entry in
      let meaning = entry.meaning(format, fileByteCount: file.byteCount, storageByteCount: dataByteCount)
      switch meaning {
      case .unallocated(nil, _), .zero(nil, _): return
      case .damaged(let how):
        add(.corruption, "L2 table at \(offset), entry \(index): \(how)")
        // What it may name isn't called a leak.
        let cluster = entry.host >> clusterBits
        if entry.host > 0, !format.hasDataFile, cluster << clusterBits == entry.host {
          counts.add(cluster..<cluster + 1)
        }
      case .data(let host, _), .zero(let host?, _), .unallocated(let host?, _):
        if format.hasDataFile { return }
        noteOverlap(ByteRange(offset: host & ~(clusterByteCount - 1), length: clusterByteCount))
        counts.add(host >> clusterBits..<(host >> clusterBits) + 1)
        if isActive, isFirstPass { active.append((entry.raw, host)) }
      case .compressed(let place):
        noteOverlap(ByteRange(offset: place.offset, length: UInt64(place.byteCount)))
        counts.add(place.offset >> clusterBits..<((place.offset + UInt64(place.byteCount) - 1) >> clusterBits) + 1)
        if entry.isExclusive { add(.corruption, "L2 table at \(offset), entry \(index): COPIED is set") }
      }
    }
    // In the order of the file, so that each refcount block is read once.
    for entry in active.sorted(by: { $0.host < $1.host }) {
      try await checkCopied(
        entry.raw & L2Entry.copiedFlag != 0, entry.host >> clusterBits, "L2 table at \(offset), data at \(entry.host)")
    }
  }

  private func noteOverlap(_ storage: ByteRange) {
    if isFirstPass, file.places.overlap(storage) != nil { overlappingCount += 1 }
  }

  /// COPIED must say whether the refcount is 1, in the active tables.
  nonisolated(nonsending)
    private func checkCopied(_ isCopied: Bool, _ cluster: UInt64, _ place: @autoclosure () -> String)
    async throws(BlockError)
  {
    guard isFirstPass else { return }
    let count = try await refcount(cluster)
    if (count == 1) != isCopied { report.add(.corruption, "\(place()): COPIED is \(isCopied), the refcount \(count)") }
  }

  // MARK: Refcounts

  /// The refcount block read last.
  private var block: (index: Int, bytes: [UInt8])?

  nonisolated(nonsending)
    private func refcount(_ cluster: UInt64) async throws(BlockError) -> UInt64
  {
    let (index, entry) = cluster.quotientAndRemainder(dividingBy: width.entryCount(in: clusterByteCount))
    guard index < UInt64(refcountTable.count), refcountTable[Int(index)] != 0 else { return 0 }
    if block?.index != Int(index) {
      let offset = refcountTable[Int(index)]
      guard offset & (clusterByteCount - 1) == 0, offset < file.byteCount else { return 0 }
      block = nil
      block = (Int(index), try await bytes(Int(clusterByteCount), at: offset))
    }
    return block.map { width.count(in: $0.bytes, at: Int(entry)) } ?? 0
  }

  nonisolated(nonsending)
    private func compare() async throws(BlockError)
  {
    for cluster in counts.window {
      let references = counts[cluster]
      // Counts of references stop at 65535.
      let refcount = try await refcount(cluster)
      if min(refcount, UInt64(UInt16.max)) == references { continue }
      let isLeak = refcount > references
      if !isLeak { lowRefcountCount += 1 }
      if let repaired {
        if !isLeak { try await repaired.coverInUse(cluster) }
        try await repaired.set(cluster, to: references)
        report.repairedCount += 1
      }
      report.add(
        isLeak ? .leak : .corruption,
        "cluster at \(cluster << clusterBits): refcount \(refcount), \(references) references")
    }
  }

  // MARK: Reading

  nonisolated(nonsending)
    private func bytes(_ count: Int, at offset: UInt64) async throws(BlockError) -> [UInt8]
  {
    var bytes = [UInt8](repeating: 0, count: count)
    var span = bytes.mutableSpan
    var raw = span.mutableBytes
    try await file.read(into: &raw, at: offset)
    return bytes
  }

  /// Hands out the entries of an L2 table, but for those that are all zero.
  nonisolated(nonsending)
    private func forEachL2Entry(
      at offset: UInt64, _ body: (_ index: Int, _ entry: L2Entry) -> Void
    ) async throws(BlockError)
  {
    guard format.hasSubclusters else {
      return try await forEachEntry(at: offset, count: Int(clusterByteCount / 8)) { index, raw in
        if raw != 0 { body(index, L2Entry(raw: raw)) }
      }
    }
    var first: UInt64 = 0
    try await forEachEntry(at: offset, count: Int(clusterByteCount / 8)) { index, half in
      if index % 2 == 0 { return first = half }
      if first != 0 || half != 0 { body(index / 2, L2Entry(raw: first, bitmap: half)) }
    }
  }

  /// Reads 64-bit entries in pieces and hands them out one by one.
  nonisolated(nonsending)
    private func forEachEntry(
      at offset: UInt64, count: Int, _ body: (_ index: Int, _ entry: UInt64) -> Void
    ) async throws(BlockError)
  {
    let step = TableCache.maximumSliceByteCount / 8
    for start in stride(from: 0, to: count, by: step) {
      let length = min(step, count - start)
      let bytes = try await bytes(length * 8, at: offset + UInt64(start) * 8)
      let span = bytes.span.bytes
      for index in 0..<length { body(start + index, span.bigEndian(at: index * 8)) }
    }
  }
}
