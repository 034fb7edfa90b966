import BlockCore

/// Where the metadata of a writable image lies, as far as its tables name it: nothing else may be written there.
///
/// Refcounts and entries can lie. Whatever they say, no guest data and no new table goes over the header, the
/// tables in use, or what snapshots need. A file isn't changed at all in which two of these share a place, or in which
/// an entry names a table that the file doesn't have: the place may come into being when the file grows.
///
/// Snapshots share tables with the active L1 table, and with each other: that is no conflict, as long as nothing says
/// that such a table is used once. Their L2 tables stay what they are, whatever the refcounts say.
///
/// Memory: one entry for each L2 table and refcount block, one area for each other table, and 8 bytes for each cluster
/// of a bitmap's bits and for each L2 table of the snapshots, which are read before the first change
/// (``ImageFile/learnSnapshotTables()``).
final class MetadataRegions {
  enum Kind: UInt8, Sendable, CustomStringConvertible {
    case header, l1Table, l2Table, refcountTable, refcountBlock, snapshotTable, snapshotL1Table, snapshotL2Table
    case bitmapDirectory, bitmapTable, bitmapCluster

    var description: String {
      switch self {
      case .header: "header"
      case .l1Table: "L1 table"
      case .l2Table: "L2 table"
      case .refcountTable: "refcount table"
      case .refcountBlock: "refcount block"
      case .snapshotTable: "snapshot table"
      case .snapshotL1Table: "L1 table of a snapshot"
      case .snapshotL2Table: "L2 table of a snapshot"
      case .bitmapDirectory: "bitmap directory"
      case .bitmapTable: "table of a bitmap"
      case .bitmapCluster: "bits of a bitmap"
      }
    }
  }

  /// So much of the snapshots' L1 tables is read, in all: 1000 snapshots of a disk of 4 TiB in clusters of 64 KiB.
  static let maximumSnapshotL1ByteCount: UInt64 = 64 << 20

  private struct Area: Sendable {
    let range: ByteRange
    let kind: Kind
  }

  private let clusterBits: UInt64
  /// Tables of one cluster each.
  private var clusters: [UInt64: Kind] = [:]
  /// Where tables of one cluster may be.
  private let filter = ClusterFilter()
  /// Clusters of the snapshots' L2 tables, in the order of the file.
  private var snapshotTables: [UInt64] = []
  /// Clusters of bitmaps' bits, in the order of the file.
  private var bitmapClusters: [UInt64] = []
  /// All others, in the order of the file.
  private var areas: [Area] = []
  /// Where the last of them ends: nearly everything lies behind.
  private var areasEnd: UInt64 = 0
  /// The L1 tables of snapshots whose entries aren't known yet; nil when they are.
  var unreadSnapshotL1Tables: [ByteRange]?
  /// The first conflict that was found; with one, the image must not be changed. Those of the active tables are known
  /// when the image is opened to be written, which is then refused.
  private(set) var conflict: String?

  init(clusterBits: UInt64) { self.clusterBits = clusterBits }

  /// Adds tables of any length, in whole clusters.
  func add(_ tables: [(kind: Kind, range: ByteRange)]) {
    areas += tables.filter { !$0.range.isEmpty }
      .map { Area(range: $0.range.aligned(to: 1 << clusterBits), kind: $0.kind) }
    areas.sort { $0.range.offset < $1.range.offset }
    areasEnd = areas.last?.range.end ?? 0
    for (area, next) in zip(areas, areas.dropFirst()) where next.range.offset < area.range.end {
      note("the \(next.kind) at \(next.range.offset) lies in the \(area.kind)")
    }
    if clusters.isEmpty { return }
    for table in tables {
      guard let kind = cluster(in: table.range, besides: nil) else { continue }
      note("the \(table.kind) at \(table.range.offset) lies in the \(kind)")
    }
  }

  /// Adds a table of one cluster.
  func add(_ kind: Kind, at offset: UInt64) {
    if let other = area(in: ByteRange(offset: offset, length: 1 << clusterBits), besides: nil) {
      return note("the \(kind) at \(offset) lies in the \(other)")
    }
    filter.insert(offset >> clusterBits)
    guard let other = clusters.updateValue(kind, forKey: offset >> clusterBits) else { return }
    note("the \(kind) at \(offset) is named twice\(other == kind ? "" : ", also as \(other)")")
  }

  /// Adds the L2 tables that snapshots name, each once.
  /// - Parameter tables: clusters, in the order of the file.
  func add(snapshotTables tables: [UInt64]) {
    for cluster in tables {
      let range = ByteRange(offset: cluster << clusterBits, length: 1 << clusterBits)
      if let other = overlap(range, besides: .l2Table) {
        note("the \(Kind.snapshotL2Table) at \(range.offset) lies in the \(other)")
      }
    }
    for cluster in tables { filter.insert(cluster) }
    snapshotTables = tables
    unreadSnapshotL1Tables = nil
  }

  /// The bitmaps of the image are these from now on, and no others.
  /// - Parameters:
  ///   - tables: the directory, and the table of each.
  ///   - bits: clusters of bits.
  func setBitmaps(tables: [(kind: Kind, range: ByteRange)], bits: [UInt64]) {
    areas.removeAll { $0.kind == .bitmapDirectory || $0.kind == .bitmapTable }
    bitmapClusters = []
    add(tables)
    for cluster in bits {
      let range = ByteRange(offset: cluster << clusterBits, length: 1 << clusterBits)
      if let other = overlap(range) { note("the \(Kind.bitmapCluster) at \(range.offset) lies in the \(other)") }
      filter.insert(cluster)
    }
    bitmapClusters = bits.sorted()
    for (cluster, next) in zip(bitmapClusters, bitmapClusters.dropFirst()) where cluster == next {
      note("the \(Kind.bitmapCluster) at \(cluster << clusterBits) is named twice")
    }
  }

  var hasSnapshotTables: Bool { !snapshotTables.isEmpty }

  /// True if a snapshot's L2 table lies at `offset`.
  func isSnapshotTable(at offset: UInt64) -> Bool { isSnapshotTable(offset >> clusterBits) }

  /// The table of one cluster isn't in use any more.
  func remove(at offset: UInt64) { clusters[offset >> clusterBits] = nil }

  /// The table that begins at `offset`, of more than one cluster perhaps, isn't in use any more.
  func removeArea(at offset: UInt64) { areas.removeAll { $0.range.offset == offset } }

  func note(_ conflict: String) { self.conflict = self.conflict ?? conflict }

  /// The metadata that has bytes in `range`, if there is any of another kind than `kind`.
  func overlap(_ range: ByteRange, besides kind: Kind? = nil) -> Kind? {
    area(in: range, besides: kind) ?? cluster(in: range, besides: kind)
  }

  private func area(in range: ByteRange, besides kind: Kind?) -> Kind? {
    if range.offset >= areasEnd { return nil }
    // The first area that ends behind the range's start: areas don't overlap where the image may be changed.
    var index = areas.partition { $0.range.end > range.offset }
    while index < areas.count, areas[index].range.offset < range.end {
      if areas[index].kind != kind { return areas[index].kind }
      index += 1
    }
    return nil
  }

  private func cluster(in range: ByteRange, besides kind: Kind?) -> Kind? {
    if range.isEmpty { return nil }
    for cluster in range.offset >> clusterBits...(range.end - 1) >> clusterBits where filter.mayContain(cluster) {
      if let found = clusters[cluster], found != kind { return found }
      if kind != .snapshotL2Table, isSnapshotTable(cluster) { return .snapshotL2Table }
      if kind != .bitmapCluster, bitmapClusters.containsSorted(cluster) { return .bitmapCluster }
    }
    return nil
  }

  private func isSnapshotTable(_ cluster: UInt64) -> Bool { snapshotTables.containsSorted(cluster) }
}

extension [UInt64] {
  /// True if `cluster` is among the elements, which are in order.
  fileprivate func containsSorted(_ cluster: UInt64) -> Bool {
    let index = partition { $0 >= cluster }
    return index < count && self[index] == cluster
  }
}

extension Array {
  /// The index of the first element that fulfils `condition`, which all behind it fulfil too; the end if none does.
  fileprivate func partition(_ condition: (Element) -> Bool) -> Int {
    var low = 0
    var high = count
    while low < high {
      let middle = (low + high) / 2
      if condition(self[middle]) { high = middle } else { low = middle + 1 }
    }
    return low
  }
}
