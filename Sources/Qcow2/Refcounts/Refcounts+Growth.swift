import Bytes
import BlockCore
import Buffers

/// New refcount blocks and larger refcount tables: rare, so each step waits until the one before is durable.
extension Refcounts {
  /// Makes sure that a refcount block covers `cluster`.
  func cover(_ cluster: UInt64) async throws(BlockError) {
    guard cluster < Self.maximumFileByteCount >> clusterBits else { throw BlockError(.noSpace, .write) }
    let block = cluster / entriesPerBlock
    if block >= UInt64(table.count) { try await growTable(for: block) }
    if table[Int(block)] == 0 { try await addBlock(Int(block)) }
  }

  /// Adds the block with this index in the first cluster that it covers: all that it covers is free.
  private func addBlock(_ index: Int) async throws(BlockError) {
    let first = UInt64(index) * entriesPerBlock
    try checkFree(ClusterRun(first: first, count: 1))
    try await writeBlock(covering: first, inUse: first..<first + 1, at: first)
    try await name(block: index, at: first)
  }

  /// Adds a block whose clusters may be in use, of an image at rest: behind everything, with a count for itself alone
  /// where it covers itself. The others are for the caller to count.
  func addBlockBehindAll(_ index: Int) async throws(BlockError) {
    let own = Int(usedEnd / entriesPerBlock)
    guard own < table.count else {
      throw BlockError(.corrupt("the refcount table doesn't reach the end of the file"), .write)
    }
    if own != index, table[own] == 0 { try await addBlockBehindAll(own) }
    let place = usedEnd
    if own == index {
      try checkFree(ClusterRun(first: place, count: 1))
    } else {
      try await take(ClusterRun(first: place, count: 1))
      try await write()
    }
    let first = UInt64(index) * entriesPerBlock
    try await writeBlock(covering: first, inUse: own == index ? place..<place + 1 : first..<first, at: place)
    try await name(block: index, at: place)
  }

  /// Has the refcount table name a block, once that is durable.
  private func name(block index: Int, at place: UInt64) async throws(BlockError) {
    try await file.flush()
    table[index] = place << clusterBits
    let sector = index / 64 * 64
    var bytes: [UInt8] = []
    for entry in table[sector..<min(sector + 64, table.count)] { bytes.append(bigEndian: entry) }
    try await file.writeTable(bytes.span.bytes, at: tableOffset + UInt64(sector) * 8, of: .refcountTable)
    file.regions.add(.refcountBlock, at: place << clusterBits)
    usedEnd = max(usedEnd, place + 1)
  }

  /// Writes a block for the clusters from `first` on, of which those in `inUse` count 1, into the cluster `place`.
  private func writeBlock(covering first: UInt64, inUse: Range<UInt64>, at place: UInt64) async throws(BlockError) {
    try await file.grow(toHold: (place + 1) << clusterBits)
    cache.forget(ByteRange(offset: place << clusterBits, length: clusterByteCount))
    var buffer = file.pool.take(Int(clusterByteCount))
    var all = buffer.mutableBytes
    all.zero()
    for cluster in inUse { width.store(1, in: &all, at: Int(cluster - first)) }
    // Nothing names it yet: a full disk concerns nothing else.
    try await file.write(buffer.bytes.extracting(0..<Int(clusterByteCount)), at: place << clusterBits)
  }

  /// Moves the refcount table behind all that it covers, at least half as large again, with blocks for itself.
  private func growTable(for block: UInt64) async throws(BlockError) {
    let perCluster = clusterByteCount / 8
    let maximum = UInt64(Qcow2Header.maximumRefcountTableByteCount) >> clusterBits
    let wanted = max(block + 1, UInt64(table.count) * 3 / 2)
    var tableClusters = min((wanted + perCluster - 1) / perCluster, maximum)
    // The new clusters lie behind the old table's coverage; so many blocks cover them.
    let first = UInt64(table.count) * entriesPerBlock
    var blockCount: UInt64 = 1
    while true {
      if blockCount * entriesPerBlock < tableClusters + blockCount {
        blockCount += 1
      } else if tableClusters * perCluster < max(UInt64(table.count) + blockCount, block + 1) {
        tableClusters += 1
      } else {
        break
      }
    }
    guard tableClusters <= maximum else {
      throw BlockError(.noSpace, .write, cause: "the refcount table has reached its limit of 8 MiB")
    }
    let used = ClusterRun(first: first, count: blockCount + tableClusters)
    try checkFree(used)
    try await file.grow(toHold: used.end << clusterBits)
    try await replaceTable(used, blockCount: blockCount)
  }

  /// Writes new blocks, then the table behind them, then the header; then the old table is free.
  private func replaceTable(_ used: ClusterRun, blockCount: UInt64) async throws(BlockError) {
    let tableCluster = used.first + blockCount
    let oldRun = ClusterRun(first: tableOffset >> clusterBits, count: (UInt64(table.count) * 8) >> clusterBits)
    var larger = table
    for number in 0..<blockCount {
      let covered = used.first + number * entriesPerBlock
      let inUse = min(used.end - min(covered, used.end), entriesPerBlock)
      try await writeBlock(covering: covered, inUse: covered..<covered + inUse, at: used.first + number)
      larger.append((used.first + number) << clusterBits)
    }
    let entryCount = Int((used.end - tableCluster) << clusterBits) / 8
    larger += [UInt64](repeating: 0, count: entryCount - larger.count)
    var bytes = file.pool.take(entryCount * 8)
    var all = bytes.mutableBytes
    for (index, entry) in larger.enumerated() { all.store(bigEndian: entry, at: index * 8) }
    try await file.write(bytes.bytes.extracting(0..<entryCount * 8), at: tableCluster << clusterBits)
    try await file.flush()
    try await header.moveRefcountTable(to: tableCluster << clusterBits, clusterCount: Int(used.end - tableCluster))
    for number in 0..<blockCount { file.regions.add(.refcountBlock, at: (used.first + number) << clusterBits) }
    file.regions.removeArea(at: tableOffset)
    let place = ClusterRun(first: tableCluster, count: used.end - tableCluster)
    file.regions.add([(.refcountTable, self.bytes(of: place))])
    table = larger
    tableOffset = tableCluster << clusterBits
    usedEnd = max(usedEnd, used.end)
    for cluster in oldRun.first..<oldRun.end {
      guard let place = try await slice(of: cluster) else { continue }
      let count = width.count(in: place.slice, at: place.index)
      if count > 0 { width.store(count - 1, in: place.slice, of: cache, at: place.index) }
      if count == 1 { searchStart = min(searchStart, cluster) }
    }
  }
}
