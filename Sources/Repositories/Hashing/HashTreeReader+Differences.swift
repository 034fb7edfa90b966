import Bytes

extension HashTreeReader {
  /// The first run of leaves in `range` that aren't the same in both trees; what is beyond the end of one counts as
  /// zero. Found from the highest level down: what is equal costs next to nothing. Of a run that is longer than `limit`
  /// its beginning.
  nonisolated(nonsending)
    package func firstDifference(
      from other: HashTreeReader, in range: Range<UInt64>, limit: UInt64 = .max
    ) async throws(Failure) -> Range<UInt64>?
  {
    var index = range.lowerBound
    while index < range.upperBound {
      let run = try await equalRun(at: index, other)
      guard run == 0 else {
        index += min(run, range.upperBound - index)
        continue
      }
      var end = index + 1
      while end < range.upperBound, end - index < limit, try await equalRun(at: end, other) == 0 { end += 1 }
      return index..<end
    }
    return nil
  }

  /// How many leaves from `index` on are the same for certain, as far as the pages on one path tell; 0 if it isn't.
  nonisolated(nonsending)
    private func equalRun(at index: UInt64, _ other: HashTreeReader) async throws(Failure) -> UInt64
  {
    for level in (0..<max(tree.storedLevels.count, other.tree.storedLevels.count)).reversed() {
      let span = UInt64(1) << UInt64(level * HashTree.levelsPerPage)
      let node = index / span
      guard let mine = try await self.node(node, ofLevel: level), let its = try await other.node(node, ofLevel: level)
      else { continue }
      if mine == its { return (node + 1) * span - index }
    }
    return 0
  }

  /// A node of a stored level: zero beyond its end; nil where the tree has no such level, so that nothing can be said.
  nonisolated(nonsending)
    private func node(_ index: UInt64, ofLevel level: Int) async throws(Failure) -> Digest?
  {
    guard level < tree.storedLevels.count else { return tree.storedLevels.isEmpty ? .zero : nil }
    guard index < tree.storedLevels[level].nodeCount else { return .zero }
    let pageSize = UInt64(HashTree.nodesPerPage)
    return try await provenPage(index / pageSize, ofLevel: level)[Int(index % pageSize)]
  }
}
