import BlockCore
import Qcow2

extension ChainLayers {
  /// Extents that are asked for at a time.
  private static let extentsPerStatus = 1024

  /// What the layer says of a part of the disk: nothing of what lower layers may show. Of the lowest it is only where it
  /// ends.
  nonisolated(nonsending)
    func runs(of index: Int, in range: ByteRange) async throws -> [ChainRun]
  {
    let image = try await take(index)
    defer { giveBack(index) }
    let limit = max(range.offset, min(image.byteCount, range.end))
    var runs: [ChainRun] = []
    var offset = index == count - 1 ? limit : range.offset
    while offset < limit {
      try Task.checkCancellation()
      let told = try await told(by: image, at: offset, upTo: limit)
      for (range, content) in told.stretches {
        guard let content else { continue }
        runs.appendJoining(ChainRun(range: range, layer: UInt32(index), content: content))
      }
      offset = told.end
    }
    if limit < range.end {
      runs.appendJoining(ChainRun(range: ByteRange(limit..<range.end), layer: UInt32(index), content: .nothing))
    }
    return runs
  }

  private typealias Told = (stretches: [(ByteRange, ChainRun.Content?)], end: UInt64)

  /// The next stretches, up to `limit` or less. What can't be read is made as small as the tables allow.
  nonisolated(nonsending)
    private func told(by image: Qcow2Image, at offset: UInt64, upTo limit: UInt64) async throws -> Told
  {
    let cluster = UInt64(image.clusterByteCount)
    let ends = (
      slice: min(limit, image.endOfTableSlice(at: offset)), cluster: min(limit, (offset / cluster + 1) * cluster)
    )
    var failure: BlockError?
    for end in [limit, ends.slice, ends.cluster] {
      do throws(BlockError) {
        let extents = try await image.blockStatus(ByteRange(offset..<end), limit: Self.extentsPerStatus)
        return (extents.map { ($0.range, ChainRun.Content($0)) }, extents.last?.range.end ?? end)
      } catch {
        guard error.isOfContents else { throw error }
        failure = error
      }
    }
    // Damage of an entry concerns its cluster; what can't be read, or isn't there, is a whole slice.
    let end = if case .corrupt = failure?.kind, failure?.range != nil { ends.cluster } else { ends.slice }
    return ([(ByteRange(offset..<end), .unreadable)], end)
  }
}

extension BlockError {
  /// Whether it is about bytes of a file, and not about the whole of it.
  fileprivate var isOfContents: Bool {
    switch kind {
    case .corrupt, .io: true
    default: false
    }
  }
}

extension ChainRun.Content {
  /// Nil if the layer doesn't say anything of it.
  fileprivate init?(_ extent: Extent) {
    guard extent.depth > 0 else { return nil }
    if extent.status.contains(.compressed) {
      self = .compressed
    } else if extent.readsAsZero {
      self = extent.status.contains(.hole) ? .hole : .zeroes
    } else {
      self = .data
    }
  }
}
