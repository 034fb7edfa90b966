import BlockCore

/// From guest bytes to mappings.
extension ClusterMap {
  /// How the bytes from `offset` on are stored, as far as that is the same and at most `length`; nil if a table that
  /// is needed isn't in memory.
  func tryMapping(
    at offset: UInt64, upTo length: UInt64, _ operation: BlockError.Operation
  ) throws(BlockError) -> Mapping? {
    let cluster = offset >> clusterBits
    let entry = l1[l1Index(cluster)]
    guard entry.raw != 0 else { return unmapped(at: offset, upTo: length) }
    guard let slice = cache.cached(sliceOffset(entry, cluster)) else { return nil }
    let first = offset >> unitBits
    let target = try target(of: first, in: slice, skipping: offset & ((1 << unitBits) - 1), operation)
    let last = (offset + length - 1) >> unitBits
    var end = first + 1
    // Plain data that lie in one piece are told by their entries alone.
    var piece: UInt64?
    if !format.hasSubclusters, case .data = target { piece = slice.entry(at: entryPosition(first)) }
    let storageByteCount = end > last || piece == nil ? 0 : data.byteCount
    // A run may go on in the next slice, as far as that is in memory.
    var current = slice
    while end <= last {
      if beginsSlice(end) {
        let cluster = end >> format.unitsPerClusterBits
        let entry = l1[l1Index(cluster)]
        guard entry.raw != 0, let next = cache.cached(sliceOffset(entry, cluster)) else { break }
        current = next
      }
      if case .unallocated(nil, _) = target, let next = endOfEmptyEntries(from: end, in: current) {
        end = min(next, last + 1)
        continue
      }
      if let piece {
        let entry: UInt64 = current.entry(at: entryPosition(end))
        guard entry == piece + ((end - first) << unitBits), entry & L2Entry.offsetMask < storageByteCount else { break }
        end += 1
        continue
      }
      guard continues(target, meaning(end, in: current), distance: (end << unitBits) - offset) else { break }
      end += 1
    }
    return Mapping(guest: ByteRange(offset..<min(offset + length, end << unitBits)), target: target)
  }

  /// Where the entries that are all zero end that begin with the unit's, at the latest with the slice; nil if there are
  /// none, or the unit is amid its cluster. They are passed without looking at each: most of an increment's are so.
  private func endOfEmptyEntries(from unit: UInt64, in slice: TableSlice) -> UInt64? {
    guard unit & ((1 << format.unitsPerClusterBits) - 1) == 0 else { return nil }
    let cluster = unit >> format.unitsPerClusterBits
    let count = slice.leadingZeroByteCount(from: entryPosition(cluster)) / format.entryByteCount
    return count == 0 ? nil : (cluster + UInt64(count)) << format.unitsPerClusterBits
  }

  /// The same, reading tables as needed.
  func mapping(
    at offset: UInt64, upTo length: UInt64, _ operation: BlockError.Operation
  ) async throws(BlockError) -> Mapping {
    while true {
      if let mapping = try tryMapping(at: offset, upTo: length, operation) { return mapping }
      let cluster = offset >> clusterBits
      let entry = l1[l1Index(cluster)]
      try checkTable(entry, l1Index(cluster), operation)
      try await load(sliceOffset(entry, cluster))
    }
  }

  /// The run of bytes without any L2 table.
  private func unmapped(at offset: UInt64, upTo length: UInt64) -> Mapping {
    let end = offset + length
    var cluster = offset >> clusterBits
    repeat {
      cluster += clustersLeftInTable(cluster)
    } while cluster << clusterBits < end && l1[l1Index(cluster)].raw == 0
    return Mapping(guest: ByteRange(offset..<min(end, cluster << clusterBits)), target: .unallocated())
  }

  /// The unit's target for its bytes from `skipped` on.
  private func target(
    of unit: UInt64, in slice: TableSlice, skipping skipped: UInt64, _ operation: BlockError.Operation
  ) throws(BlockError) -> Mapping.Target {
    switch meaning(unit, in: slice) {
    case .unallocated(let host, let isExclusive):
      return .unallocated(host: host.map { $0 + skipped }, isExclusive: isExclusive)
    case .zero(let host, let isExclusive): return .zero(host: host.map { $0 + skipped }, isExclusive: isExclusive)
    case .data(let host, let isExclusive): return .data(host: host + skipped, isExclusive: isExclusive)
    case .compressed(let place): return .compressed(place)
    case .damaged(let how):
      let cluster = unit >> format.unitsPerClusterBits
      let range = ByteRange(offset: cluster << clusterBits, length: clusterByteCount)
      let place = slice.offset + UInt64(entryPosition(cluster))
      throw BlockError(.corrupt("L2 entry at \(place): \(how)"), operation, range)
    }
  }

  /// True if a unit that means `next` goes on with `target`, `distance` bytes behind its start.
  private func continues(_ target: Mapping.Target, _ next: L2Entry.Meaning, distance: UInt64) -> Bool {
    switch (target, next) {
    case (.unallocated(nil, _), .unallocated(nil, _)): true
    case (.unallocated(let host?, let isExclusive), .unallocated(let other?, let otherIsExclusive)):
      other == host + distance && isExclusive == otherIsExclusive
    case (.zero(nil, _), .zero(nil, _)): true
    case (.zero(let host?, let isExclusive), .zero(let other?, let otherIsExclusive)):
      other == host + distance && isExclusive == otherIsExclusive
    case (.data(let host, let isExclusive), .data(let other, let otherIsExclusive)):
      other == host + distance && isExclusive == otherIsExclusive
    default: false
    }
  }

  /// True if all bytes are stored where they can be overwritten in place, as far as tables in memory tell.
  func isInPlace(_ range: ByteRange) -> Bool {
    var offset = range.offset
    while offset < range.end {
      guard let mapping = try? tryMapping(at: offset, upTo: range.end - offset, .write),
        case .data(_, isExclusive: true) = mapping.target
      else { return false }
      offset = mapping.guest.end
    }
    return true
  }
}
