import BlockCore

// Proving a whole file costs what is stored in it, not what the guest's disk is long: a page that was never written is
// a hole, and a hole is sound exactly where the node over it is zero.
//
// From the highest level down, each page is proven that is either stored (not known to be a hole), or a hole under a
// node that isn't zero, which is damage. What is left are holes under zero nodes.
extension HashTreeReader {
  /// Proves every page, those of zeroes too, and those that are inherited. Cancelled between pages by `checkpoint`.
  nonisolated(nonsending)
    package func proveAll(_ checkpoint: () async throws -> Void) async throws
  {
    if header.isOverParent, !tree.storedLevels.isEmpty {
      return try await prove(0, ofLevel: tree.storedLevels.count - 1, checkpoint)
    }
    for level in tree.storedLevels.indices.reversed() {
      if level == tree.storedLevels.count - 1 {
        // The top page stands under the root, also where it is a hole.
        _ = try await provenPage(0, ofLevel: level)
      } else {
        try await forEachStoredPage(ofLevel: level, checkpoint) { index in
          _ = try await provenPage(index, ofLevel: level)
        }
      }
      guard level > 0 else { continue }
      // Pages that should be there and are holes: under the nodes of this level that aren't zero.
      try await forEachStoredPage(ofLevel: level, checkpoint) { index in
        for child in try await missingPages(under: index, ofLevel: level) {
          _ = try await provenPage(child, ofLevel: level - 1)
        }
      }
    }
  }

  /// Proves a page and all that isn't zero below it, wherever it is stored.
  nonisolated(nonsending)
    private func prove(_ index: UInt64, ofLevel level: Int, _ checkpoint: () async throws -> Void) async throws
  {
    try await checkpoint()
    let nodes = try await provenPage(index, ofLevel: level)
    guard level > 0 else { return }
    for (place, node) in nodes.enumerated() where node != .zero {
      try await prove(index * UInt64(HashTree.nodesPerPage) + UInt64(place), ofLevel: level - 1, checkpoint)
    }
  }

  /// Pages below a page of nodes that should hold something, and aren't known to.
  nonisolated(nonsending)
    private func missingPages(under index: UInt64, ofLevel level: Int) async throws -> [UInt64]
  {
    let nodes = try await provenPage(index, ofLevel: level)
    let children = tree.storedLevels[level - 1]
    let pageSize = UInt64(HashTree.pageByteCount)
    let first = index * UInt64(HashTree.nodesPerPage)
    let needed = nodes.indices.filter { nodes[$0] != .zero }.map { first + UInt64($0) }
    guard !needed.isEmpty else { return [] }
    let start = children.fileOffset + first * pageSize
    let end = children.fileOffset + min(first + UInt64(HashTree.nodesPerPage), children.pageCount) * pageSize
    let stored = try await status(ByteRange(start..<end)).filter { !$0.readsAsZero }
    return needed.filter { child in
      let page = ByteRange(offset: children.fileOffset + child * pageSize, length: pageSize)
      return !stored.contains { $0.range.overlaps(page) }
    }
  }

  /// Extents that are asked for at a time.
  private static let extentsPerStatus = 256
  /// Pages between two checkpoints.
  private static let pagesPerCheckpoint = 64

  /// The pages that aren't known to read as zeroes, in order.
  nonisolated(nonsending)
    private func forEachStoredPage(
      ofLevel level: Int, _ checkpoint: () async throws -> Void, _ body: (UInt64) async throws -> Void
    ) async throws
  {
    let stored = tree.storedLevels[level]
    let pageSize = UInt64(HashTree.pageByteCount)
    let end = stored.fileOffset + stored.pageCount * pageSize
    var offset = stored.fileOffset
    var next: UInt64 = 0
    var sinceCheckpoint = Self.pagesPerCheckpoint
    while offset < end {
      for extent in try await status(ByteRange(offset..<end)) {
        let extentEnd = min(end, extent.range.end)
        offset = extentEnd
        guard !extent.readsAsZero else { continue }
        let first = max(next, (extent.range.offset - stored.fileOffset) / pageSize)
        next = max(next, (extentEnd - stored.fileOffset + pageSize - 1) / pageSize)
        for index in first..<max(first, next) {
          if sinceCheckpoint >= Self.pagesPerCheckpoint {
            try await checkpoint()
            sinceCheckpoint = 0
          }
          sinceCheckpoint += 1
          try await body(index)
        }
      }
      try await checkpoint()
    }
  }

  nonisolated(nonsending)
    private func status(_ range: ByteRange) async throws(Failure) -> [Extent]
  {
    do throws(BlockError) {
      return try await file.blockStatus(range, limit: Self.extentsPerStatus)
    } catch {
      throw .device(error)
    }
  }
}
