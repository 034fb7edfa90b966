import BlockCore
import Buffers

/// The bitmaps of an image that is open to be written, and their changes in the file, one at a time: the image sees to
/// that (``Qcow2Image/bitmapTurn``).
///
/// 1. New tables and bits, and a new directory that names them beside all that stays, go to new clusters. They and the
///    counts of their clusters are durable before the header names the directory.
/// 2. The header names another directory, and says that the bitmaps are consistent, in one step (``HeaderRewrite``).
/// 3. What the old directory alone used is released after that step is durable.
/// 4. A flag that says less of a bitmap than before, which is that it is in use, is set in place: whatever part of the
///    directory gets to the file, each bitmap is what it was or in use.
///
/// So whatever is cut off, the file has the old bitmaps or the new ones, or clusters that nothing uses.
///
/// What isn't understood stays as it is, byte for byte, until it is removed. Where a program changed the image that
/// didn't keep its bitmaps up to date, it may have given their clusters away: nothing is read, protected or released by
/// such a directory. It is left out of the next one, and its clusters are leaks.
final class BitmapsOnDisk {
  // Confined to the image's loop.

  /// The tables of all bitmaps may be this long together: they tell 2 million clusters of bits.
  static let maximumTablesByteCount = 16 << 20

  let file: ImageFile
  let header: HeaderOnDisk
  let map: ClusterMap
  private(set) var bitmaps: [AllocatedBitmap]
  private(set) var areTrusted: Bool
  /// Marked in use by the caller, or stored by it.
  private(set) var held: Set<[UInt8]> = []
  /// Enabled bitmaps that the caller leaves consistent and doesn't record.
  private(set) var exempt: Set<[UInt8]> = []
  /// A bitmap that every write would make wrong.
  private(set) var unrecorded: BitmapEntry?

  var clusterByteCount: UInt64 { file.clusterByteCount }

  private init(_ map: ClusterMap, _ bitmaps: [AllocatedBitmap], areTrusted: Bool) {
    file = map.file
    header = map.header
    self.map = map
    self.bitmaps = bitmaps
    self.areTrusted = areTrusted
    noteUnrecorded()
  }

  /// Reads the directory and all tables, and has nothing else written where they lie.
  static func open(_ map: ClusterMap) async throws(Qcow2Error) -> BitmapsOnDisk {
    let file = map.file
    let value = map.header.value
    let stored = try await StoredBitmaps.read(value, file.device, file.pool)
    if let directory = try value.bitmapDirectory(), !file.holds(directory.offset, directory.byteCount) {
      throw .damaged("bitmaps extension: a directory at \(directory.offset), where none can be")
    }
    var bitmaps: [AllocatedBitmap] = []
    var tablesByteCount = 0
    for entry in stored.entries {
      tablesByteCount += entry.tableEntryCount * 8
      guard tablesByteCount <= maximumTablesByteCount else {
        throw .notWritable("the tables of its bitmaps take more than \(maximumTablesByteCount) bytes")
      }
      bitmaps.append(
        AllocatedBitmap(entry: entry, clusters: stored.areTrusted ? try await clusters(of: entry, file, value) : []))
    }
    let opened = BitmapsOnDisk(map, bitmaps, areTrusted: stored.areTrusted)
    opened.noteRegions()
    if let conflict = file.regions.conflict { throw .damaged(conflict) }
    return opened
  }

  private static func clusters(
    of entry: BitmapEntry, _ file: ImageFile, _ header: Qcow2Header
  ) async throws(Qcow2Error) -> [UInt64] {
    if entry.tableEntryCount == 0 { return [] }
    guard file.holds(entry.tableOffset, UInt64(entry.tableEntryCount) * 8) else {
      throw .damaged("bitmap \(entry.shortName): its table at \(entry.tableOffset) isn't clusters of the file")
    }
    let table = try await file.table(at: entry.tableOffset, count: entry.tableEntryCount)
    var clusters: [UInt64] = []
    for (index, raw) in table.enumerated() where raw != 0 {
      let offset = raw & L2Entry.offsetMask
      guard BitmapTable.isSound(raw, header), offset == 0 || file.holds(offset, header.clusterByteCount) else {
        throw .damaged("bitmap \(entry.shortName): entry \(index) of its table is \(String(raw, radix: 16))")
      }
      if offset != 0 { clusters.append(offset / header.clusterByteCount) }
    }
    return clusters
  }

  var stored: StoredBitmaps { StoredBitmaps(entries: bitmaps.map(\.entry), areTrusted: areTrusted) }

  func bitmap(named name: [UInt8]) -> AllocatedBitmap? { bitmaps.first { $0.entry.nameBytes == name } }

  /// True if the bitmaps can only stay right while nothing writes.
  func isUnrecorded(_ entry: BitmapEntry) -> Bool {
    entry.isAuto && !entry.isInUse && !exempt.contains(entry.nameBytes)
  }

  private func noteUnrecorded() {
    unrecorded = areTrusted ? bitmaps.lazy.map(\.entry).first { self.isUnrecorded($0) } : nil
  }

  private func noteRegions() {
    guard areTrusted, let directory = try? header.value.bitmapDirectory() else {
      return file.regions.setBitmaps(tables: [], bits: [])
    }
    let tables = bitmaps.map(\.entry).map { entry in
      (
        MetadataRegions.Kind.bitmapTable,
        ByteRange(offset: entry.tableOffset, length: UInt64(entry.tableEntryCount) * 8)
      )
    }
    file.regions.setBitmaps(
      tables: [(.bitmapDirectory, ByteRange(offset: directory.offset, length: directory.byteCount))] + tables,
      bits: bitmaps.flatMap(\.clusters))
  }

  /// The caller has bitmaps in its charge that another program marked in use.
  func adopt(_ names: Set<[UInt8]>) {
    held.formUnion(names.intersection(bitmaps.lazy.filter(\.entry.isInUse).map(\.entry.nameBytes)))
  }

  /// Sets the flag of these bitmaps in place, durably.
  func markInUse(_ names: Set<[UInt8]>, leaving exempt: Set<[UInt8]>) async throws(BlockError) {
    var marked = bitmaps
    for index in marked.indices where names.contains(marked[index].entry.nameBytes) {
      marked[index].entry.isInUse = true
    }
    if marked.contains(where: { $0.entry.isInUse && self.bitmap(named: $0.entry.nameBytes)?.entry.isInUse == false }),
      let directory = (try? header.value.bitmapDirectory()) ?? nil
    {
      let bytes = Self.encoded(marked)
      try await file.writeTable(bytes.span.bytes, at: directory.offset, of: .bitmapDirectory)
      try await file.flush()
    }
    bitmaps = marked
    held.formUnion(names)
    self.exempt = exempt
    noteUnrecorded()
  }

  /// Makes these the bitmaps of the image.
  ///
  /// - Parameters:
  ///   - writer: has written those that are new.
  ///   - change: what else changes in the header, in the same step.
  func replace(
    with new: [AllocatedBitmap], storing names: Set<[UInt8]>, _ writer: inout BitmapWriter,
    and change: (inout Qcow2Header) -> Void = { _ in }
  ) async throws(BlockError) {
    var contents: [UInt8]?
    if !new.isEmpty {
      let bytes = Self.encoded(new)
      let byteCount = new.reduce(0) { $0 + $1.entry.encodedByteCount }
      guard byteCount <= StoredBitmaps.maximumDirectoryByteCount, new.count <= BitmapDirectory.maximumBitmapCount,
        new.reduce(0, { $0 + $1.entry.tableEntryCount * 8 }) <= Self.maximumTablesByteCount
      else {
        throw BlockError(.notSupported, .write, cause: "the image would have too many bitmaps, or too large ones")
      }
      let offset = try await writer.write(bytes)
      let directory = BitmapDirectory(bitmapCount: new.count, byteCount: UInt64(byteCount), offset: offset)
      contents = directory.encoded()
    }
    try await map.refcounts.write()
    try await file.flush()
    let old = self.runs
    try await header.change { value in
      value.setBitmaps(contents)
      change(&value)
    }
    bitmaps = new
    areTrusted = true
    held = held.union(names).intersection(new.map(\.entry.nameBytes))
    noteRegions()
    noteUnrecorded()
    release(old)
  }

  /// All clusters that the bitmaps take, and their directory.
  private var runs: Set<UInt64> {
    guard areTrusted, let directory = (try? header.value.bitmapDirectory()) ?? nil else { return [] }
    let range = ByteRange(offset: directory.offset, length: directory.byteCount).aligned(to: clusterByteCount)
    var clusters = Set(range.offset / clusterByteCount..<range.end / clusterByteCount)
    for bitmap in bitmaps {
      for run in bitmap.runs(clusterByteCount) { clusters.formUnion(run.first..<run.end) }
    }
    return clusters
  }

  /// The image's next commit releases what isn't used any more.
  private func release(_ old: Set<UInt64>) {
    var freed: [ClusterRun] = []
    for cluster in old.subtracting(runs).sorted() { freed.appendMerging(ClusterRun(first: cluster, count: 1)) }
    map.unreferenced += freed
  }

  /// The entries of a directory, in whole sectors.
  private static func encoded(_ bitmaps: [AllocatedBitmap]) -> [UInt8] {
    let bytes = bitmaps.flatMap { $0.entry.encoded() }
    let sector = HeaderOnDisk.sectorByteCount
    return bytes + [UInt8](repeating: 0, count: (sector - bytes.count % sector) % sector)
  }
}

extension Qcow2Header {
  /// - Parameter contents: of the header extension; nil where there are no bitmaps.
  fileprivate mutating func setBitmaps(_ contents: [UInt8]?) {
    guard let contents else {
      extensions.removeAll { $0.type == HeaderExtension.Kind.bitmaps }
      autoclear.remove(.bitmaps)
      return
    }
    set(extension: HeaderExtension.Kind.bitmaps, contents)
    autoclear.insert(.bitmaps)
  }
}
