import Bytes
import BlockCore
import Buffers

/// Writes tables, bits and directories to new clusters. Nothing in the file names them yet: until the header does, a
/// failure concerns nothing else, and what was taken can be given back.
struct BitmapWriter {
  private static let sectorByteCount = 512

  let file: ImageFile
  let refcounts: Refcounts
  /// All clusters that were taken.
  private(set) var runs: [ClusterRun] = []

  init(file: ImageFile, refcounts: Refcounts) {
    self.file = file
    self.refcounts = refcounts
  }

  /// Writes a bitmap for a disk of this geometry.
  mutating func write(_ source: any BitmapSource, _ geometry: BitmapGeometry) async throws(BlockError)
    -> AllocatedBitmap
  {
    var table: [UInt64] = []
    var clusters: [UInt64] = []
    table.reserveCapacity(geometry.clusterCount)
    for index in 0..<geometry.clusterCount {
      let bits = try await write(clusterOfBits: index, of: source, geometry)
      if let cluster = bits.cluster { clusters.append(cluster) }
      table.append(bits.entry)
    }
    var bytes: [UInt8] = []
    bytes.reserveCapacity(table.count * 8)
    for entry in table { bytes.append(bigEndian: entry) }
    var entry = BitmapEntry(
      nameBytes: source.name, granularityByteCount: source.granularityByteCount, type: BitmapEntry.dirtyTrackingType,
      flags: 0, tableOffset: try await write(bytes), tableEntryCount: table.count, nameByteCount: source.name.count,
      extraByteCount: 0)
    entry.isAuto = source.isAuto
    entry.isInUse = source.isInUse
    return AllocatedBitmap(entry: entry, clusters: clusters)
  }

  /// Writes bytes to clusters that follow one another.
  /// - Returns: their offset.
  mutating func write(_ bytes: [UInt8]) async throws(BlockError) -> UInt64 {
    let cluster = file.clusterByteCount
    let run = try await refcounts.allocateContiguous((UInt64(bytes.count) + cluster - 1) / cluster)
    runs.appendMerging(run)
    let offset = run.first * cluster
    let padding = (Self.sectorByteCount - bytes.count % Self.sectorByteCount) % Self.sectorByteCount
    let padded = bytes + [UInt8](repeating: 0, count: padding)
    try await file.write(padded.span.bytes, at: offset)
    return offset
  }

  /// Gives back what was taken, after a failure: nothing names it.
  func giveBack() async {
    var runs = runs
    try? await refcounts.release(&runs, givingBack: true)
  }

  private mutating func write(
    clusterOfBits index: Int, of source: any BitmapSource, _ geometry: BitmapGeometry
  ) async throws(BlockError) -> (entry: UInt64, cluster: UInt64?) {
    let count = geometry.clusterByteCount
    var buffer = file.pool.take(count)
    var all = buffer.mutableBytes
    var bytes = all.part(0..<count)
    bytes.zero()
    let bits = try await source.bits(ofCluster: index, into: &bytes)
    guard bits == .mixed else { return (BitmapTable.entry(for: bits), nil) }
    geometry.clearTail(of: &bytes, cluster: index)
    if buffer.isZero(0..<count) { return (BitmapTable.entry(for: .zeroes), nil) }
    let run = try await refcounts.allocate(upTo: 1)
    runs.appendMerging(run)
    let offset = run.first * file.clusterByteCount
    try await file.write(buffer.bytes.extracting(0..<count), at: offset)
    return (offset, run.first)
  }
}

/// A bitmap of the image, with the clusters of its bits.
struct AllocatedBitmap: Sendable {
  var entry: BitmapEntry
  /// By index in the file.
  var clusters: [UInt64]

  /// All clusters that it takes, its table's first.
  func runs(_ clusterByteCount: UInt64) -> [ClusterRun] {
    let byteCount = UInt64(entry.tableEntryCount) * 8
    var runs = [
      ClusterRun(
        first: entry.tableOffset / clusterByteCount, count: (byteCount + clusterByteCount - 1) / clusterByteCount)
    ]
    for cluster in clusters { runs.appendMerging(ClusterRun(first: cluster, count: 1)) }
    return runs
  }
}
