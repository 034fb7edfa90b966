import BlockCore
import Buffers
import Bytes

/// Reads every table of an image at rest, counts the references to each host cluster, and compares them with the
/// refcounts (qcow2.txt, "Host cluster management" and "Cluster mapping"). It changes nothing by itself.
///
/// What reading the guest's bytes refuses is an error here, and so is all that `qemu-img check` calls one: an image
/// without errors can be read from end to end, and QEMU finds no errors either. A table that the file has only in part
/// is an error, although QEMU takes the rest for zeroes: what was cut off may have been anything.
///
/// Tables are read from the file, one at a time, beside the caches. Memory: one table, the counts of one window,
/// the L1 table at hand, and the snapshots without their names. Work: each table once for each L1 table that names it,
/// for each window of the file that has references or refcounts. The refcount table and the first pass tell which ones
/// have: elsewhere nothing can contradict. So the work follows what is stored, and not the length of the file.
final class MetadataWalk {
  /// The L1 tables of all snapshots together may be this long; more isn't walked.
  static let maximumSnapshotL1ByteCount = 256 << 20
  /// Images that are scattered over more windows of their file than this aren't walked.
  static let maximumWindowCount = 1024

  let file: ImageFile
  private let header: Qcow2Header
  let refcountTable: [UInt64]
  let width: RefcountWidth
  private let format: L2Format
  let clusterBits: UInt64
  /// Clusters in a window.
  let windowClusterCount: UInt64
  var counts: ReferenceCounts
  /// The windows that are gone through, by number, as far as it is known what lies where.
  private var windows: [UInt64] = []
  var report = Qcow2CheckReport()
  /// What doesn't depend on the window is told in the first pass alone.
  private var isFirstPass = true
  private var snapshotTableByteCount: UInt64 = 0
  /// Corruptions of the tables themselves: while there are such, nothing can tell what is in use.
  private(set) var damagedTableCount = 0
  /// Clusters in use more often than their refcounts say.
  var lowRefcountCount = 0
  /// Entries that call metadata guest data, as far as the image's regions are known: counting these clusters twice
  /// would only hide it.
  private(set) var overlappingCount = 0
  /// Takes the counts that are right, where they shall be put right.
  private(set) var repaired: Refcounts?
  /// The refcount block read last.
  var block: (index: UInt64, bytes: [UInt8])?
  private let progress: CheckProgress
  /// What part of the walk was told to be done.
  private var donePart = 0.0
  private var doneWindowCount = 0
  /// Entries of L1 tables that were gone through in this window, of how many.
  private var doneEntryCount = 0
  private var allEntryCount = 0
  /// Some finding has a name that was too long for it.
  private var hasCutNames = false

  init(
    file: ImageFile, header: Qcow2Header, refcountTable: [UInt64],
    windowClusterCount: UInt64 = ReferenceCounts.usualWindowClusterCount,
    progress: @escaping CheckProgress = { _ in }
  ) {
    self.windowClusterCount = windowClusterCount
    counts = ReferenceCounts(window: 0..<0, windowClusterCount: windowClusterCount)
    self.file = file
    self.progress = progress
    self.header = header
    self.refcountTable = refcountTable
    width = RefcountWidth(order: header.refcountOrder)
    clusterBits = UInt64(header.clusterBits)
    fileClusterCount = (file.byteCount + header.clusterByteCount - 1) >> clusterBits
    format = L2Format(header)
  }

  var clusterByteCount: UInt64 { 1 << clusterBits }
  private var dataByteCount: UInt64 { (file.dataFile ?? file).byteCount }
  /// As it was at the beginning: a repair may make the file longer. At least the header's.
  private let fileClusterCount: UInt64

  func run(repairing refcounts: Refcounts? = nil) async throws(BlockError) -> Qcow2CheckReport {
    repaired = refcounts
    let snapshots: [Snapshot]
    do {
      (snapshots, snapshotTableByteCount) = try await SnapshotTableReader.readNameless(header, file.device, file.pool)
    } catch {
      throw error.asBlockError(.read)
    }
    let l1ByteCount = snapshots.reduce(0) { $0 + $1.l1EntryCount * 8 }
    guard l1ByteCount <= Self.maximumSnapshotL1ByteCount else {
      throw BlockError(.notSupported, .read, cause: "the image's tables are too large to check")
    }
    allEntryCount = Int(l1ByteCount) / 8 + header.l1EntryCount
    try chooseWindows()
    while doneWindowCount < windows.count {
      let start = windows[doneWindowCount] * windowClusterCount
      counts.begin(start..<max(start, min(start + windowClusterCount, fileClusterCount)))
      doneEntryCount = 0
      try await countReferences(snapshots)
      if isFirstPass { try chooseWindows() }
      try await compare()
      isFirstPass = false
      doneWindowCount += 1
    }
    report.isTruncated = hasCutNames || report.findings.count < report.corruptionCount + report.leakCount
    return report
  }

  /// The first window, and all others with references or refcounts.
  private func chooseWindows() throws(BlockError) {
    let last = (fileClusterCount - 1) / windowClusterCount
    windows = counts.usedWindows.union(windowsWithRefcounts).union([0]).filter { $0 <= last }.sorted()
    guard windows.count <= Self.maximumWindowCount else {
      throw BlockError(.notSupported, .read, cause: "the image's tables are too far apart in its file to check")
    }
  }

  /// Counting the references of a window takes so much of its time, comparing them the rest.
  private static let countingPart = 0.75

  /// Tells how far the walk has come, and lets it be ended.
  /// - Parameter part: what is done of the window at hand; nil if that is what was told last.
  private func tell(_ part: Double?) async throws(BlockError) {
    if let part { donePart = max(donePart, (Double(doneWindowCount) + part) / Double(windows.count)) }
    try await progress(donePart)
  }

  func tellCompared(_ part: Double) async throws(BlockError) {
    try await tell(Self.countingPart + (1 - Self.countingPart) * part)
  }

  /// A name for a finding: the image's maker chose it.
  private func short(_ name: String) -> String {
    guard name.utf8.count > Qcow2CheckReport.maximumNameByteCount else { return name }
    hasCutNames = true
    return String(decoding: name.utf8.prefix(Qcow2CheckReport.maximumNameByteCount), as: UTF8.self) + "…"
  }

  private func add(_ kind: Qcow2CheckReport.Finding.Kind, _ place: @autoclosure () -> String) {
    guard isFirstPass else { return }
    if kind == .corruption { damagedTableCount += 1 }
    report.add(kind, place())
  }

  // MARK: References

  private func countReferences(_ snapshots: [Snapshot]) async throws(BlockError) {
    counts.add(0..<1)
    referenceTable("refcount table", header.refcountTableOffset, UInt64(refcountTable.count) * 8)
    for (index, offset) in refcountTable.enumerated() where offset != 0 {
      referenceTable("refcount table entry \(index)", offset, clusterByteCount)
    }
    try await walk("L1 table", header.l1Offset, header.l1EntryCount, isActive: true)
    // Reading it has shown that the file holds it; behind its last entry, the padding may be missing.
    reference("snapshot table", header.snapshotsOffset, snapshotTableByteCount)
    for snapshot in snapshots {
      if header.version >= 3, snapshot.extraByteCount < SnapshotTable.minimumExtraByteCount {
        add(.corruption, "snapshot \(short(snapshot.id)): \(snapshot.extraByteCount) bytes of extra data are too few")
      }
      try await walk(
        "snapshot \(short(snapshot.id))'s L1 table", snapshot.l1Offset, snapshot.l1EntryCount, isActive: false)
    }
    try await referenceBitmaps()
    checkRefcountBlocks()
  }

  /// A refcount block is named once, and nothing else lies there: which of the two would be changed isn't known.
  private func checkRefcountBlocks() {
    for (index, offset) in refcountTable.enumerated() where offset != 0 && file.holds(offset, clusterByteCount) {
      let cluster = offset >> clusterBits
      guard counts.window.contains(cluster), counts[cluster] != 1 else { continue }
      damagedTableCount += 1
      report.add(
        .corruption, "refcount table entry \(index): the block at \(offset) is named \(counts[cluster]) times")
    }
  }

  /// Counts whole clusters of a table, all of which the file must have.
  private func referenceTable(_ name: @autoclosure () -> String, _ offset: UInt64, _ byteCount: UInt64) {
    let (end, overflow) = offset.addingReportingOverflow(byteCount)
    if !overflow, end > file.byteCount, end <= fileClusterCount << clusterBits {
      add(.corruption, "\(name()): the file ends inside of it, at \(file.byteCount)")
    }
    reference(name(), offset, byteCount)
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

  private func referenceBitmaps() async throws(BlockError) {
    do {
      guard var bitmaps = try BitmapDirectoryReader(header, file.device, file.pool) else { return }
      referenceTable("bitmap directory", bitmaps.directory.offset, bitmaps.directory.byteCount)
      while let bitmap = try await bitmaps.next() {
        try await tell(nil)
        if let how = bitmap.damage(of: header) { add(.corruption, "bitmap \(short(bitmap.name)): \(how)") }
        let byteCount = UInt64(bitmap.tableEntryCount) * 8
        referenceTable("bitmap \(short(bitmap.name))'s table", bitmap.tableOffset, byteCount)
        guard bitmap.tableOffset <= file.byteCount, byteCount <= file.byteCount - bitmap.tableOffset else { continue }
        try await forEachEntry(at: bitmap.tableOffset, count: bitmap.tableEntryCount) { index, entry in
          let offset = entry & L2Entry.offsetMask
          if !BitmapTable.isSound(entry, header) {
            add(.corruption, "bitmap \(short(bitmap.name))'s entry \(index): \(String(entry, radix: 16))")
          }
          if offset != 0 { reference("bitmap \(short(bitmap.name))'s entry \(index)", offset, clusterByteCount) }
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

  private func walk(
    _ name: @autoclosure () -> String, _ offset: UInt64, _ count: Int, isActive: Bool
  ) async throws(BlockError) {
    referenceTable(name(), offset, UInt64(count) * 8)
    guard offset <= file.byteCount, UInt64(count) * 8 <= file.byteCount - offset else { return }
    var tables: [NamedTable] = []
    try await forEachEntry(at: offset, count: count) { index, raw in
      if raw == 0 { return }
      let table = NamedTable(index: UInt32(index), entry: L1Entry(raw: raw))
      if table.entry.raw & L1Entry.reservedMask != 0 || table.entry.tableOffset == 0 {
        add(.corruption, "\(name()), entry \(index): \(String(raw, radix: 16)) names no table")
      }
      // What it may name isn't called a leak.
      if table.entry.tableOffset != 0 { tables.append(table) }
    }
    // In the order of the file; a table named twice is counted twice and walked once.
    tables.sort { $0.entry.tableOffset < $1.entry.tableOffset }
    var last: UInt64 = 0
    try await advance(count - tables.count)
    for table in tables {
      let isRepeated = table.entry.tableOffset == last
      last = table.entry.tableOffset
      if isRepeated { add(.corruption, "\(name()): the L2 table at \(last) is named twice") }
      try await walkTable(table, name(), isActive: isActive, isRepeated: isRepeated)
      try await advance(1)
    }
  }

  private func advance(_ entryCount: Int) async throws(BlockError) {
    doneEntryCount += entryCount
    try await tell(Self.countingPart * Double(doneEntryCount) / Double(max(1, allEntryCount)))
  }

  /// An L1 entry that isn't zero, with its index.
  private struct NamedTable {
    let index: UInt32
    let entry: L1Entry
  }

  private func walkTable(
    _ table: NamedTable, _ name: @autoclosure () -> String, isActive: Bool, isRepeated: Bool
  ) async throws(BlockError) {
    let offset = table.entry.tableOffset
    referenceTable("\(name()): the L2 table", offset, clusterByteCount)
    guard offset & (clusterByteCount - 1) == 0, offset < file.byteCount, !isRepeated else { return }
    if isActive {
      try await checkCopied(table.entry.isExclusive, offset >> clusterBits, "L1 entry for the table at \(offset)")
    }
    let firstCluster = UInt64(table.index) * (clusterByteCount / UInt64(format.entryByteCount))
    var active: [(raw: UInt64, host: UInt64)] = []
    try await forEachL2Entry(at: offset) { index, entry in
      let place = "L2 table at \(offset), entry \(index)"
      if format.hasDataFile { return checkDataFileEntry(entry, (firstCluster + UInt64(index)) << clusterBits, place) }
      guard let host = reference(entry, place) else { return }
      if isActive, isFirstPass { active.append((entry.raw, host)) }
    }
    // In the order of the file, so that each refcount block is read once.
    for entry in active.sorted(by: { $0.host < $1.host }) {
      try await checkCopied(
        entry.raw & L2Entry.copiedFlag != 0, entry.host >> clusterBits, "L2 table at \(offset), data at \(entry.host)")
    }
  }

  /// Counts what an entry names, and tells what is wrong with it.
  /// - Returns: the place of its cluster, if it has one of its own.
  private func reference(_ entry: L2Entry, _ place: @autoclosure () -> String) -> UInt64? {
    switch entry.meaning(format, fileByteCount: file.byteCount, storageByteCount: dataByteCount) {
    case .damaged(let how):
      add(.corruption, "\(place()): \(how)")
      // What it may name isn't called a leak.
      if entry.host > 0, entry.host & (clusterByteCount - 1) == 0 { count(ByteRange(offset: entry.host, length: 1)) }
      return nil
    case .unallocated(nil, _), .zero(nil, _):
      if entry.host != 0 { add(.corruption, "\(place()): zeroes at \(entry.host), past the end of the file") }
      return nil
    case .data(let host, _), .zero(let host?, _), .unallocated(let host?, _):
      count(ByteRange(offset: host & ~(clusterByteCount - 1), length: clusterByteCount))
      return host
    case .compressed(let packed):
      count(ByteRange(offset: packed.offset, length: UInt64(packed.byteCount)))
      if entry.isExclusive { add(.corruption, "\(place()): COPIED is set") }
      if entry.bitmap != 0 { add(.corruption, "\(place()): subclusters of a compressed cluster") }
      return nil
    }
  }

  /// Adds a reference to the clusters of guest data.
  private func count(_ storage: ByteRange) {
    if isFirstPass, file.regions.overlap(storage) != nil { overlappingCount += 1 }
    counts.add(
      (storage.offset >> clusterBits..<((storage.end - 1) >> clusterBits) + 1).clamped(to: 0..<fileClusterCount))
  }

  /// In a data file, guest data lie at their guest offset, and nothing else uses them.
  private func checkDataFileEntry(_ entry: L2Entry, _ guestOffset: UInt64, _ place: @autoclosure () -> String) {
    let meaning = entry.meaning(format, fileByteCount: file.byteCount, storageByteCount: dataByteCount)
    switch meaning.checked(against: guestOffset) {
    case .damaged(let how): add(.corruption, "\(place()): \(how)")
    case .data, .zero, .unallocated, .compressed:
      if entry.host != 0, !entry.isExclusive { add(.corruption, "\(place()): COPIED isn't set") }
    }
  }

  /// COPIED must say whether the refcount is 1, in the active tables.
  private func checkCopied(_ isCopied: Bool, _ cluster: UInt64, _ place: @autoclosure () -> String)
    async throws(BlockError)
  {
    guard isFirstPass else { return }
    let count = try await refcount(cluster)
    if (count == 1) != isCopied { report.add(.corruption, "\(place()): COPIED is \(isCopied), the refcount \(count)") }
  }

  // MARK: Reading

  func bytes(_ count: Int, at offset: UInt64) async throws(BlockError) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: count)
    var span = bytes.mutableSpan
    var raw = span.mutableBytes
    try await file.read(into: &raw, at: offset)
    return bytes
  }

  /// Hands out the entries of an L2 table, but for those that are all zero.
  private func forEachL2Entry(
    at offset: UInt64, _ body: (_ index: Int, _ entry: L2Entry) -> Void
  ) async throws(BlockError) {
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
  private func forEachEntry(
    at offset: UInt64, count: Int, _ body: (_ index: Int, _ entry: UInt64) -> Void
  ) async throws(BlockError) {
    let step = TableCache.maximumSliceByteCount / 8
    for start in stride(from: 0, to: count, by: step) {
      // A long table, perhaps in a hole of the file: its walk can be ended.
      if start > 0 { try await tell(nil) }
      let length = min(step, count - start)
      let bytes = try await bytes(length * 8, at: offset + UInt64(start) * 8)
      let span = bytes.span.bytes
      for index in 0..<length { body(start + index, span.bigEndian(at: index * 8)) }
    }
  }
}
