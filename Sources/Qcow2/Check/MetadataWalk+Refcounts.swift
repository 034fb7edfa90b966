import BlockCore

/// The refcounts as the file has them, and their comparison with the references.
extension MetadataWalk {
  /// The progress of comparing is told once for so many clusters.
  private static let clustersPerReport: UInt64 = 256 << 10

  /// Clusters whose counts a refcount block holds.
  private var clustersPerBlock: UInt64 { width.entryCount(in: clusterByteCount) }

  private func hasBlock(_ index: UInt64) -> Bool {
    index < UInt64(refcountTable.count) && refcountTable[Int(index)] != 0
  }

  /// The windows, by number, for whose clusters there are refcount blocks.
  var windowsWithRefcounts: Set<UInt64> {
    var windows: Set<UInt64> = []
    for index in refcountTable.indices where refcountTable[index] != 0 {
      let first = UInt64(index) * clustersPerBlock
      let last = first + clustersPerBlock - 1
      windows.formUnion(first / windowClusterCount...last / windowClusterCount)
    }
    return windows
  }

  func refcount(_ cluster: UInt64) async throws(BlockError) -> UInt64 {
    let (index, entry) = cluster.quotientAndRemainder(dividingBy: clustersPerBlock)
    try await load(block: index)
    return block.map { width.count(in: $0.bytes, at: Int(entry)) } ?? 0
  }

  /// Reads the refcount block of this number into ``block``: nil where there is none.
  private func load(block index: UInt64) async throws(BlockError) {
    guard block?.index != index else { return }
    block = nil
    guard hasBlock(index) else { return }
    let offset = refcountTable[Int(index)]
    guard offset & (clusterByteCount - 1) == 0, offset < file.byteCount else { return }
    block = (index, try await bytes(Int(clusterByteCount), at: offset))
  }

  /// Compares the window's refcounts with its references. What no block counts, and nothing refers to, is skipped.
  func compare() async throws(BlockError) {
    let window = counts.window
    var cluster = window.lowerBound
    var nextReport = cluster
    while cluster < window.upperBound {
      if cluster >= nextReport {
        try await tellCompared(Double(cluster - window.lowerBound) / Double(window.count))
        nextReport = cluster + Self.clustersPerReport
      }
      let index = cluster / clustersPerBlock
      let end = min((index + 1) * clustersPerBlock, window.upperBound, nextReport)
      if hasBlock(index) || counts.hasReferences(in: cluster..<end) {
        try await load(block: index)
        try await compare(cluster..<end)
      }
      cluster = end
    }
  }

  /// Compares clusters of one block, which is loaded.
  private func compare(_ clusters: Range<UInt64>) async throws(BlockError) {
    let bytes = block?.bytes
    let first = Int(clusters.lowerBound % clustersPerBlock)
    for (index, cluster) in clusters.enumerated() {
      let references = counts[cluster]
      let refcount = bytes.map { width.count(in: $0, at: first + index) } ?? 0
      // Counts of references stop at 65535.
      if min(refcount, UInt64(UInt16.max)) != references {
        try await note(cluster, refcount: refcount, references: references)
      }
    }
  }

  private func note(_ cluster: UInt64, refcount: UInt64, references: UInt64) async throws(BlockError) {
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
