import BlockCore
import Descriptors
import EventLoops
import Glibc

/// What the file system knows of a file's holes.
extension RawFile {
  /// Extents looked up in one call, at most: what bounds the time it takes.
  private static let maximumExtentCount = 4096

  package func blockStatus(_ range: ByteRange, limit: Int) async throws(BlockError) -> [Extent] {
    try checkStage(.blockStatus)
    try checkRequest(.blockStatus, at: range.offset, length: range.length)
    guard !range.isEmpty else { return [] }
    // Nothing tells what a block device's bytes are.
    if isBlockDevice { return [Extent(range: range, status: [], depth: 1)] }
    let count = max(1, min(limit, Self.maximumExtentCount))
    let granule = UInt64(limits.preferredByteCount)
    let alignment = UInt64(limits.requestAlignment)
    return try await request(.blockStatus, range) { () async throws(SystemError) in
      try await loop.blocking(in: lane) { [file] () throws(SystemError) in
        try HoleMap(file: file, range: range, granule: granule, alignment: alignment).extents(atMost: count)
      }
    }
  }
}

/// Walks over data and holes with SEEK_DATA and SEEK_HOLE. Blocks.
///
/// The file may change meanwhile: what isn't a hole for certain is told as data, and each step gets on.
private struct HoleMap {
  let file: FileDescriptor
  let range: ByteRange
  /// How far to get on where two answers contradict each other.
  let granule: UInt64
  /// Where extents may begin and end.
  let alignment: UInt64

  func extents(atMost count: Int) throws(SystemError) -> [Extent] {
    var extents: [Extent] = []
    var position = range.offset
    while position < range.end, extents.count < count {
      let next = try extent(at: position)
      extents.appendMerging(next)
      position = next.range.end
    }
    return extents
  }

  private func extent(at position: UInt64) throws(SystemError) -> Extent {
    let data: UInt64?
    do throws(SystemError) {
      data = try file.seekData(from: position)
    } catch {
      // A file system that doesn't tell.
      guard error.code == EINVAL || error.code == EOPNOTSUPP else { throw error }
      return make(position, range.end, isHole: false)
    }
    guard let data else { return make(position, range.end, isHole: true) }
    // Rounded up: a unit that has data in it is data.
    let dataUnit = data / alignment * alignment
    if dataUnit > position { return make(position, min(dataUnit, range.end), isHole: true) }
    let hole = try file.seekHole(from: data) ?? range.end
    let holeUnit = (hole + alignment - 1) / alignment * alignment
    let end = holeUnit > position ? holeUnit : position + granule
    return make(position, min(end, range.end), isHole: false)
  }

  private func make(_ start: UInt64, _ end: UInt64, isHole: Bool) -> Extent {
    Extent(range: ByteRange(start..<end), status: isHole ? [.zero, .hole] : [], depth: 1)
  }
}
