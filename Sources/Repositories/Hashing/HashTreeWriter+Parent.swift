import Bytes

/// What didn't come is the parent's: of a page that nothing came for the parent's node is taken, the others are completed.
extension HashTreeWriter {
  /// Leaves that stand for the same bytes in both trees.
  private func commonLeafCount(_ parent: HashTreeReader) -> UInt64 {
    if parent.tree.byteCount == tree.byteCount { return tree.leafCount }
    return min(parent.tree.byteCount, tree.byteCount) / UInt64(HashTree.grainByteCount)
  }

  /// Takes all that is missing in the page from the parent, with the pages below.
  nonisolated(nonsending)
    func complete(
      _ page: inout Page, at position: Position, from parent: HashTreeReader, _ checkpoint: () async throws -> Void
    ) async throws
  {
    try await checkpoint()
    let common = commonLeafCount(parent)
    let first = position.index * UInt64(HashTree.nodesPerPage)
    var leaves: [Digest] = []
    if position.level == 0 {
      leaves = try await parent.leaves(min(first, common)..<min(first + UInt64(HashTree.nodesPerPage), common))
    }
    for place in page.nodes.indices where page.nodes[place] == Self.missing {
      if position.level == 0 {
        precondition(place < leaves.count, "the leaf \(first + UInt64(place)) didn't come, and the parent has none")
        page.nodes[place] = leaves[place]
      } else {
        page.nodes[place] = try await completeNode(at: position.below(place), from: parent, checkpoint)
      }
    }
    page.missingCount = 0
  }

  /// Completes one page below. Returns the node over it.
  nonisolated(nonsending)
    private func completeNode(
      at position: Position, from parent: HashTreeReader, _ checkpoint: () async throws -> Void
    ) async throws -> Digest
  {
    var page = try await take(position)
    let leavesPerPage = UInt64(HashTree.nodesPerPage) << UInt64(HashTree.levelsPerPage * position.level)
    let isSame =
      parent.tree.byteCount == tree.byteCount || (position.index + 1) * leavesPerPage <= commonLeafCount(parent)
    if page.isFresh, isSame, let node = try await parent.node(overPage: position.index, ofLevel: position.level) {
      return node
    }
    try await complete(&page, at: position, from: parent, checkpoint)
    return try await write(page.nodes, at: position, isAlways: page.wasPutBy)
  }
}
