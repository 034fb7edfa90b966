import BlockCore
import Buffers

/// Puts the refcounts of an image at rest right, and the COPIED flags that follow from them.
///
/// Only where every table can be read: what a damaged table used can't be told from what nothing uses.
/// **Crashes.** Lowering the count of a cluster that nothing refers to harms nothing at any moment, and flags change
/// only when the counts are durable. Raising a count protects the cluster from that moment on, and a block that was
/// missing is named when it is durable; until its counts are, they are as low as they were.
struct RefcountRepair {
  /// What may be put right.
  enum Extent: Sendable {
    /// Counts that are too high.
    case leaks
    /// All of them.
    case allCounts
  }

  let map: ClusterMap
  /// Told of three walks as of one; what it throws ends the repair.
  var progress: CheckProgress = { _ in }

  private func walk(_ number: Int) -> MetadataWalk {
    MetadataWalk(file: map.file, header: map.header.value, refcountTable: map.refcounts.table) {
      [progress] (part) async throws(BlockError) in
      try await progress((Double(number) + part) / 3)
    }
  }

  /// - Returns: what is wrong now, and how many counts were put right: none if there is damage beyond `extent`.
  func run(_ extent: Extent) async throws(BlockError) -> Qcow2CheckReport {
    try await map.settle()
    let first = walk(0)
    let found = try await first.run()
    guard first.damagedTableCount == 0, extent == .allCounts || first.lowRefcountCount == 0,
      extent == .leaks || first.overlappingCount == 0
    else { return found }
    let repaired = try await walk(1).run(repairing: map.refcounts)
    try await map.refcounts.clearPastEnd()
    try await map.settle()
    try await repairCopiedFlags()
    try await map.settle()
    var left = try await walk(2).run()
    left.repairedCount = repaired.repairedCount
    return left
  }

  /// COPIED says whether the refcount is 1, in the active tables.
  private func repairCopiedFlags() async throws(BlockError) {
    for index in map.l1.indices where map.l1[index].raw != 0 {
      let entry = map.l1[index]
      try map.checkTable(entry, index, .write)
      let count = try await map.refcounts.count(of: entry.tableOffset >> map.clusterBits)
      if (count == 1) != entry.isExclusive { map.toggleCopied(inL1At: index) }
      if map.format.hasDataFile { continue }
      let sliceByteCount = UInt64(map.cache.sliceByteCount)
      for start in stride(from: 0, to: map.clusterByteCount, by: Int(sliceByteCount)) {
        try await repairCopiedFlags(inSliceAt: entry.tableOffset + start)
      }
    }
  }

  private func repairCopiedFlags(inSliceAt offset: UInt64) async throws(BlockError) {
    var wrong: [Int] = []
    for (position, raw) in try await map.entries(inSliceAt: offset) {
      let entry = L2Entry(raw: raw)
      if entry.host == 0 { continue }
      let count = try await map.refcounts.count(of: entry.host >> map.clusterBits)
      if (count == 1) != entry.isExclusive { wrong.append(position) }
    }
    if !wrong.isEmpty { try await map.toggleCopied(inSliceAt: offset, at: wrong) }
  }
}

extension ClusterMap {
  fileprivate func toggleCopied(inL1At index: Int) {
    l1[index].raw ^= L2Entry.copiedFlag
    dirtyL1Sectors.insert(index / Self.l1EntriesPerSector)
  }

  /// The first halves of a slice's entries, but for those that are zero, with their positions in it.
  fileprivate func entries(inSliceAt offset: UInt64) async throws(BlockError) -> [(position: Int, raw: UInt64)] {
    let slice = try await slice(at: offset)
    return stride(from: 0, to: slice.byteCount, by: format.entryByteCount).compactMap { position in
      let raw = slice.entry(UInt64.self, at: position)
      return raw == 0 ? nil : (position, raw)
    }
  }

  fileprivate func toggleCopied(inSliceAt offset: UInt64, at positions: [Int]) async throws(BlockError) {
    let slice = try await slice(at: offset)
    for position in positions {
      cache.store(slice.entry(UInt64.self, at: position) ^ L2Entry.copiedFlag, in: slice, at: position)
    }
  }

  private func slice(at offset: UInt64) async throws(BlockError) -> TableSlice {
    while true {
      if let slice = cache.cached(offset) { return slice }
      try await load(offset)
    }
  }
}
