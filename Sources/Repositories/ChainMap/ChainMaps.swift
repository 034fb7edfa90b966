import BlockCore
import Buffers
import Failures
import Model

/// The maps of a chain's disk, made stretch by stretch as they are asked for. All of the disk is one stretch, unless its
/// runs are too many: then stretches are as short as they must be, and the ones that weren't used for longest go.
///
/// Memory is bounded by the runs that are kept, and as many again while a map is made. Confined to one loop.
final class ChainMaps: @unchecked Sendable {
  // Safe to hand over: confined to its loop, like the devices.

  struct Stretch {
    let range: ByteRange
    let map: ChainMap

    /// The longest part of the stretch from `offset` on, up to `end`, of which one layer says the same.
    func piece(at offset: UInt64, upTo end: UInt64) -> ChainMap.Piece {
      map.piece(at: offset, upTo: min(end, range.end))
    }
  }

  /// So many are looked through one by one.
  private static let maximumCount = 64
  /// Stretches of that length are made whatever their runs: there can't be many.
  private static let leastByteCount: UInt64 = 64 << 10

  private let layers: ChainLayers
  private let byteCount: UInt64
  private let maximumRunCount: Int
  /// A power of two.
  private var stretchByteCount: UInt64
  /// The one that was used last comes first.
  private var stretches: [Stretch] = []
  private let making = RangeLock()

  /// - Parameter byteCount: of the disk.
  init(of layers: ChainLayers, byteCount: UInt64, maximumRunCount: Int = ChainMapBuilder.maximumRunCount) {
    self.layers = layers
    self.byteCount = byteCount
    self.maximumRunCount = maximumRunCount
    stretchByteCount = Self.leastByteCount
    while stretchByteCount < byteCount { stretchByteCount *= 2 }
  }

  /// The stretch with that byte, if its map is made.
  func made(at offset: UInt64) -> Stretch? {
    if let first = stretches.first, first.range.range.contains(offset) { return first }
    guard let index = stretches.firstIndex(where: { $0.range.range.contains(offset) }) else { return nil }
    let found = stretches.remove(at: index)
    stretches.insert(found, at: 0)
    return found
  }

  /// The stretch with that byte. Its map is made if it has to be, one at a time.
  /// - Throws: `backupCorrupt` where a file isn't what the chain says.
  nonisolated(nonsending)
    func stretch(at offset: UInt64) async throws -> Stretch
  {
    if let made = made(at: offset) { return made }
    let hold = await making.acquire(ByteRange(offset: 0, length: 1), .exclusive)
    defer { making.release(hold) }
    while true {
      if let made = made(at: offset) { return made }
      let start = offset & ~(stretchByteCount - 1)
      let range = ByteRange(start..<start + min(stretchByteCount, byteCount - start))
      do {
        let made = Stretch(range: range, map: try await map(of: range))
        stretches.insert(made, at: 0)
        makeRoom()
        return made
      } catch is ChainMapBuilder.TooManyRuns {
        stretchByteCount /= 2
      }
    }
  }

  nonisolated(nonsending)
    private func map(of range: ByteRange) async throws -> ChainMap
  {
    var builder = ChainMapBuilder(limit: stretchByteCount > Self.leastByteCount ? maximumRunCount : .max)
    for index in 0..<layers.count {
      try Task.checkCancellation()
      let runs = try await telling(about: layers.name(index), damage: .backupCorrupt) {
        try await layers.runs(of: index, in: range)
      }
      try builder.add(runs)
    }
    return builder.finish()
  }

  private func makeRoom() {
    var runCount = stretches.reduce(0) { $0 + $1.map.runs.count }
    while stretches.count > 1, runCount > maximumRunCount || stretches.count > Self.maximumCount {
      runCount -= stretches.removeLast().map.runs.count
    }
  }
}
