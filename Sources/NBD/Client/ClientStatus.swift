import BlockCore

/// Makes what a server tells of metadata contexts into what the block port asks for.
enum ClientStatus {
  /// The first extents that fit into `byteCount`, joined, at most `limit`: a server may tell of more.
  static func clipped(_ extents: [ContextExtent], to byteCount: UInt64, limit: Int) -> [ContextExtent] {
    var result: [ContextExtent] = []
    var left = byteCount
    for extent in extents where left > 0 {
      let length = min(left, extent.length)
      if result.count == limit, result[limit - 1].flags != extent.flags { break }
      result.appendMerging(ContextExtent(length: length, flags: extent.flags))
      left -= length
    }
    return result
  }

  /// Extents from `range.offset` on, as far as all that was told reaches. Without depths, what is no hole counts as
  /// the export's own.
  static func extents(
    _ range: ByteRange, limit: Int, allocation: [ContextExtent], depth: [ContextExtent]?
  ) -> [Extent] {
    var result: [Extent] = []
    var offset = range.offset
    var states = allocation[...]
    var depths = depth?[...]
    while let state = states.first, depths == nil || depths?.first != nil {
      let layer = depths?.first
      let length = min(state.length, layer?.length ?? .max)
      let extent = Extent(
        range: ByteRange(offset: offset, length: length), status: status(state.flags),
        depth: layer.map { Int(clamping: $0.flags) } ?? (state.flags & AllocationState.hole.rawValue != 0 ? 0 : 1))
      if result.count == limit, !result[limit - 1].continues(with: extent) { break }
      result.appendMerging(extent)
      offset += length
      advance(&states, by: length)
      if var rest = depths {
        advance(&rest, by: length)
        depths = rest
      }
    }
    return result
  }

  private static func advance(_ extents: inout ArraySlice<ContextExtent>, by length: UInt64) {
    guard let first = extents.first else { return }
    if first.length == length {
      extents.removeFirst()
    } else {
      extents[extents.startIndex].length -= length
    }
  }

  private static func status(_ flags: UInt64) -> Extent.Status {
    let state = AllocationState(rawValue: flags)
    var status: Extent.Status = []
    if state.contains(.zero) { status.insert(.zero) }
    if state.contains(.hole) { status.insert(.hole) }
    return status
  }
}
