import BlockCore

private let filterBitCount = 1 << 16

/// Where the metadata of a writable image lies, as far as its tables name it: nothing else may be written there.
///
/// Refcounts and entries can lie. Whatever they say, no guest data and no new table goes over the header, the
/// tables in use, or what snapshots need; and a file in which two of these share a place isn't changed at all.
///
/// Memory: one entry for each L2 table and refcount block, one area for each other table.
final class MetadataPlaces {
  enum Kind: UInt8, Sendable, CustomStringConvertible {
    case header, l1Table, l2Table, refcountTable, refcountBlock, snapshotTable, snapshotL1Table

    var description: String {
      switch self {
      case .header: "header"
      case .l1Table: "L1 table"
      case .l2Table: "L2 table"
      case .refcountTable: "refcount table"
      case .refcountBlock: "refcount block"
      case .snapshotTable: "snapshot table"
      case .snapshotL1Table: "L1 table of a snapshot"
      }
    }
  }

  private struct Area: Sendable {
    let range: ByteRange
    let kind: Kind
  }

  private let clusterBits: UInt64
  /// Tables of one cluster each.
  private var clusters: [UInt64: Kind] = [:]
  /// A bit for each remainder of a cluster index: clear where no such table can be, as almost everywhere.
  private var filter = [UInt64](repeating: 0, count: filterBitCount / 64)
  /// All others, in the order of the file.
  private var areas: [Area] = []
  /// The first two tables that were found to share a place; with one, the image must not be changed.
  private(set) var conflict: String?

  init(clusterBits: UInt64) { self.clusterBits = clusterBits }

  /// Adds tables of any length, in whole clusters.
  func add(_ tables: [(kind: Kind, range: ByteRange)]) {
    areas += tables.filter { !$0.range.isEmpty }
      .map { Area(range: $0.range.aligned(to: 1 << clusterBits), kind: $0.kind) }
    areas.sort { $0.range.offset < $1.range.offset }
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
    let bit = filterBit(offset >> clusterBits)
    filter[bit / 64] |= 1 << UInt64(bit % 64)
    guard let other = clusters.updateValue(kind, forKey: offset >> clusterBits) else { return }
    note("the \(kind) at \(offset) is named twice\(other == kind ? "" : ", also as \(other)")")
  }

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
    // The first area that ends behind the range's start: areas don't overlap where the image may be changed.
    var low = 0
    var high = areas.count
    while low < high {
      let middle = (low + high) / 2
      if areas[middle].range.end <= range.offset { low = middle + 1 } else { high = middle }
    }
    while low < areas.count, areas[low].range.offset < range.end {
      if areas[low].kind != kind { return areas[low].kind }
      low += 1
    }
    return nil
  }

  private func filterBit(_ cluster: UInt64) -> Int { Int(cluster & UInt64(filterBitCount - 1)) }

  private func cluster(in range: ByteRange, besides kind: Kind?) -> Kind? {
    if range.isEmpty || clusters.isEmpty { return nil }
    for cluster in range.offset >> clusterBits...(range.end - 1) >> clusterBits {
      let bit = filterBit(cluster)
      if filter[bit / 64] >> UInt64(bit % 64) & 1 == 0 { continue }
      if let found = clusters[cluster], found != kind { return found }
    }
    return nil
  }
}
