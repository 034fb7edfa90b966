import Bytes
import BlockCore
import Model

/// Writes a `.hashes` file while the leaves come in, in order, with one page of memory for each stored level.
///
/// Runs of zeroes cost next to nothing, in time and on the storage: their pages stay holes.
package final class HashTreeWriter {
  package let tree: HashTree
  private let file: any BlockDevice
  // By stored level: the page being filled, how much of it is, and its number.
  private var pages: [[Digest]]
  private var fillCounts: [Int]
  private var pageIndices: [UInt64]
  private var appendedLeafCount: UInt64 = 0

  /// - Parameter file: empty; it is grown to the tree's size at once.
  nonisolated(nonsending)
    package init(_ tree: HashTree, to file: any BlockDevice) async throws(BlockError)
  {
    self.tree = tree
    self.file = file
    let count = tree.storedLevels.count
    pages = Array(repeating: Self.emptyPage, count: count)
    fillCounts = Array(repeating: 0, count: count)
    pageIndices = Array(repeating: 0, count: count)
    try await file.resize(to: tree.fileByteCount)
  }

  /// The leaves that have come so far.
  package var leafCount: UInt64 { appendedLeafCount }

  nonisolated(nonsending)
    package func append(_ leaves: [Digest]) async throws(BlockError)
  {
    for leaf in leaves {
      appendedLeafCount += 1
      try await append(leaf, toLevel: 0)
    }
  }

  nonisolated(nonsending)
    package func appendZeroes(_ count: UInt64) async throws(BlockError)
  {
    appendedLeafCount += count
    try await appendZeroes(count, toLevel: 0)
  }

  /// Completes the tree and writes the header; nothing is flushed.
  /// - Precondition: all leaves have come.
  nonisolated(nonsending)
    package func finish(backup: BackupID) async throws(BlockError) -> Digest
  {
    precondition(appendedLeafCount == tree.leafCount, "\(appendedLeafCount) of \(tree.leafCount) leaves came")
    for level in pages.indices where fillCounts[level] > 0 { try await closePage(ofLevel: level) }
    let root = tree.root(topPage: pages.last ?? [])
    let header = HashFileHeader(guestByteCount: tree.byteCount, root: root, backup: backup).encoded()
    try await file.write(header.span.bytes, at: 0)
    return root
  }

  private static let emptyPage = [Digest](repeating: .zero, count: HashTree.nodesPerPage)

  private func isTop(_ level: Int) -> Bool { level == pages.count - 1 }

  nonisolated(nonsending)
    private func append(_ node: Digest, toLevel level: Int) async throws(BlockError)
  {
    pages[level][fillCounts[level]] = node
    fillCounts[level] += 1
    // The top page stays in memory for the root.
    if fillCounts[level] == HashTree.nodesPerPage, !isTop(level) { try await closePage(ofLevel: level) }
  }

  nonisolated(nonsending)
    private func appendZeroes(_ count: UInt64, toLevel level: Int) async throws(BlockError)
  {
    var left = count
    while left > 0, fillCounts[level] > 0 || isTop(level) {
      try await append(.zero, toLevel: level)
      left -= 1
    }
    guard left > 0 else { return }
    // Here starts a page: whole ones of zeroes are told to the level above and stay holes.
    let (whole, rest) = left.quotientAndRemainder(dividingBy: UInt64(HashTree.nodesPerPage))
    if whole > 0 {
      pageIndices[level] += whole
      try await appendZeroes(whole, toLevel: level + 1)
    }
    for _ in 0..<rest { try await append(.zero, toLevel: level) }
  }

  /// Writes the page that was being filled, passes its node up and starts the next one.
  nonisolated(nonsending)
    private func closePage(ofLevel level: Int) async throws(BlockError)
  {
    let page = pages[level]
    let node = HashTree.node(overPage: page)
    if node != .zero {
      var bytes = [UInt8](repeating: 0, count: HashTree.pageByteCount)
      for (index, node) in page.enumerated() { node.store(in: &bytes, at: index * Digest.byteCount) }
      let offset = tree.storedLevels[level].fileOffset + pageIndices[level] * UInt64(HashTree.pageByteCount)
      try await file.write(bytes.span.bytes, at: offset)
    }
    guard !isTop(level) else { return }
    pages[level] = Self.emptyPage
    fillCounts[level] = 0
    pageIndices[level] += 1
    try await append(node, toLevel: level + 1)
  }
}
