import BlockCore

/// What is stored where, told from tables alone: no byte of guest data is read.
extension Qcow2Image {
  /// So many mappings are looked at in one call, so that a call on a fragmented image ends.
  private static let maximumMappingsPerStatus = 1 << 16

  package func blockStatus(_ range: ByteRange, limit: Int) async throws(BlockError) -> [Extent] {
    try checkUsable(.blockStatus)
    try checkRequest(.blockStatus, at: range.offset, length: range.length)
    var extents: [Extent] = []
    var offset = range.offset
    var steps = 0
    while offset < range.end, steps < Self.maximumMappingsPerStatus {
      steps += 1
      let mapping = try await map.mapping(at: offset, upTo: range.end - offset, .blockStatus)
      for extent in try await self.extents(mapping, limit: limit) {
        if extents.count >= max(limit, 1), let last = extents.last, !last.continues(with: extent) { return extents }
        extents.appendMerging(extent)
        offset = extent.range.end
      }
    }
    return extents
  }

  private func extents(_ mapping: Mapping, limit: Int) async throws(BlockError) -> [Extent] {
    switch mapping.target {
    case .data: [Extent(range: mapping.guest, status: [], depth: 1)]
    case .compressed: [Extent(range: mapping.guest, status: .compressed, depth: 1)]
    case .zero(let host, _):
      [Extent(range: mapping.guest, status: host == nil ? [.zero, .hole] : .zero, depth: 1)]
    case .unallocated: try await backingExtents(mapping.guest, limit: limit)
    }
  }

  /// What the chain below says, one layer deeper; past its end there is nothing.
  func backingExtents(_ range: ByteRange, limit: Int) async throws(BlockError) -> [Extent] {
    let nothing = Extent.Status([.zero, .hole])
    guard let backing, let below = range.intersection(ByteRange(offset: 0, length: backing.byteCount)) else {
      return [Extent(range: range, status: nothing, depth: 0)]
    }
    let aligned = below.aligned(to: UInt64(backing.limits.requestAlignment))
    let asked = ByteRange(aligned.offset..<min(aligned.end, backing.byteCount))
    var extents: [Extent] = []
    for extent in try await backing.blockStatus(asked, limit: limit) {
      guard let part = extent.range.intersection(below) else { continue }
      extents.append(Extent(range: part, status: extent.status, depth: extent.depth == 0 ? 0 : extent.depth + 1))
    }
    guard let last = extents.last else {
      throw BlockError(.corrupt("the backing device tells no status"), .blockStatus, below)
    }
    if last.range.end == below.end, below.end < range.end {
      extents.append(Extent(range: ByteRange(below.end..<range.end), status: nothing, depth: 0))
    }
    return extents
  }
}
