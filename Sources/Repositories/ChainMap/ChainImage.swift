import BlockCore
import Buffers
import Failures
import Model
import Qcow2

/// The disk that a chain of qcow2 files stands for, read through one map: a read costs one lookup and the file that holds
/// the bytes, whatever the depth. Where one map of all of the disk would be too large there are several, see ``ChainMaps``.
///
/// What it reads as, and its status, are those of the files stacked on each other: the highest layer that says something
/// of a byte decides, and past the end of a layer are zeroes, whatever lies below. Where a layer's tables are damaged,
/// reads fail that need them, and no others.
package final class ChainImage: BlockDevice, @unchecked Sendable {
  // Safe to hand over: confined to its loop, like every device.

  private let maps: ChainMaps
  private let layers: ChainLayers
  private let lowest: Qcow2Image
  private let top: Qcow2Image
  /// Held by each request, and alone by closing.
  private let requests = RangeLock()
  private var isClosed = false

  /// So many pieces are looked at in one call, so that a call on a fragmented image ends.
  private static let maximumPiecesPerStatus = 1 << 16

  private init(_ maps: ChainMaps, _ layers: ChainLayers, top: Qcow2Image, lowest: Qcow2Image) {
    self.maps = maps
    self.layers = layers
    self.top = top
    self.lowest = lowest
  }

  /// Opens each file once and reads its tables, but those of the lowest.
  ///
  /// - Parameters:
  ///   - files: the chain from the top down, at least two.
  ///   - openFileCount: files that stay open; at least three: the top, the lowest, and the one that is read.
  /// - Throws: `backupCorrupt` where a file isn't what the chain says.
  nonisolated(nonsending)
    package static func open(
      _ files: [ChainLayer], openFileCount: Int? = nil, maximumRunCount: Int? = nil, work: any BackgroundWork,
      pool: BufferPool
    ) async throws -> ChainImage
  {
    precondition(files.count > 1)
    let layers = ChainLayers(
      files, limit: max(3, openFileCount ?? ChainLayers.openFileCount), work: work, pool: pool)
    return try await attempt {
      let (top, lowest) = (try await layers.take(0), try await layers.take(files.count - 1))
      let maps = ChainMaps(
        of: layers, byteCount: top.byteCount, maximumRunCount: maximumRunCount ?? ChainMapBuilder.maximumRunCount)
      _ = try await maps.stretch(at: 0)
      return ChainImage(maps, layers, top: top, lowest: lowest)
    } orCleanUp: {
      await layers.close()
    }
  }

  package var byteCount: UInt64 { top.byteCount }
  package var limits: BlockLimits { top.limits }
  package var isReadOnly: Bool { true }
  /// Files that are open.
  package var openFileCount: Int { layers.openCount }

  private func check(_ operation: BlockError.Operation, at offset: UInt64, length: UInt64) throws(BlockError) {
    if isClosed { throw BlockError(.closed, operation) }
    try checkRequest(operation, at: offset, length: length)
  }

  // MARK: Reads

  package func tryRead(into buffer: inout MutableRawSpan, at offset: UInt64) throws(BlockError) -> Bool {
    try check(.read, at: offset, length: UInt64(buffer.byteCount))
    let end = offset + UInt64(buffer.byteCount)
    guard offset < end else { return true }
    guard let stretch = maps.made(at: offset), end <= stretch.range.end else { return false }
    var done = 0
    while done < buffer.byteCount {
      let piece = stretch.piece(at: offset + UInt64(done), upTo: end)
      var part = buffer.part(done..<done + Int(piece.range.length))
      guard tryRead(piece, into: &part) else { return false }
      done += Int(piece.range.length)
    }
    return true
  }

  /// False where it fails, too: `read` tells how.
  private func tryRead(_ piece: ChainMap.Piece, into part: inout MutableRawSpan) -> Bool {
    switch piece.run?.content {
    case .zeroes, .hole, .nothing:
      part.zero()
      return true
    case .unreadable: return false
    case .data, .compressed, nil:
      guard let image = layers.opened(layer(of: piece)) else { return false }
      return (try? image.tryRead(into: &part, at: piece.range.offset)) ?? false
    }
  }

  private func layer(of piece: ChainMap.Piece) -> Int { piece.run.map { Int($0.layer) } ?? layers.count - 1 }

  nonisolated(nonsending)
    package func read(into buffer: inout MutableRawSpan, at offset: UInt64) async throws(BlockError)
  {
    try check(.read, at: offset, length: UInt64(buffer.byteCount))
    let range = ByteRange(offset: offset, length: UInt64(buffer.byteCount))
    if range.isEmpty { return }
    let hold = await requests.acquire(range, .shared)
    defer { requests.release(hold) }
    try check(.read, at: offset, length: range.length)
    var done = 0
    while done < buffer.byteCount {
      let piece = try await piece(at: offset + UInt64(done), upTo: range.end, .read)
      var part = buffer.part(done..<done + Int(piece.range.length))
      try await read(piece, into: &part)
      done += Int(piece.range.length)
    }
  }

  nonisolated(nonsending)
    private func piece(
      at offset: UInt64, upTo end: UInt64, _ operation: BlockError.Operation
    ) async throws(BlockError) -> ChainMap.Piece
  {
    do {
      return try await maps.stretch(at: offset).piece(at: offset, upTo: end)
    } catch {
      throw BlockError(any: error, operation, ByteRange(offset..<end))
    }
  }

  nonisolated(nonsending)
    private func read(_ piece: ChainMap.Piece, into part: inout MutableRawSpan) async throws(BlockError)
  {
    if let content = piece.run?.content, content != .data, content != .compressed, content != .unreadable {
      return part.zero()
    }
    let index = layer(of: piece)
    let image: Qcow2Image
    do {
      image = try await layers.take(index)
    } catch {
      throw BlockError(any: error, .read, piece.range)
    }
    defer { layers.giveBack(index) }
    do throws(BlockError) {
      if piece.run?.content == .unreadable {
        // Its tables tell how they are damaged. Should they be readable by now, the map still doesn't know what is there.
        _ = try await image.blockStatus(piece.range, limit: 1)
        throw BlockError(.corrupt("its tables couldn't be read when it was opened"), .read)
      }
      try await image.read(into: &part, at: piece.range.offset)
    } catch {
      throw error.naming(layers.name(index), piece.range)
    }
  }

  // MARK: Status

  nonisolated(nonsending)
    package func blockStatus(_ range: ByteRange, limit: Int) async throws(BlockError) -> [Extent]
  {
    try check(.blockStatus, at: range.offset, length: range.length)
    if range.isEmpty { return [] }
    let hold = await requests.acquire(range, .shared)
    defer { requests.release(hold) }
    try check(.blockStatus, at: range.offset, length: range.length)
    var (extents, offset, steps) = ([Extent](), range.offset, 0)
    while offset < range.end, steps < Self.maximumPiecesPerStatus {
      steps += 1
      let piece = try await piece(at: offset, upTo: range.end, .blockStatus)
      for extent in try await self.extents(piece, limit: limit) {
        if extents.count >= max(limit, 1), let last = extents.last, !last.continues(with: extent) { return extents }
        extents.appendMerging(extent)
        offset = extent.range.end
      }
    }
    return extents
  }

  nonisolated(nonsending)
    private func extents(_ piece: ChainMap.Piece, limit: Int) async throws(BlockError) -> [Extent]
  {
    guard let run = piece.run else {
      do throws(BlockError) {
        return try await lowest.blockStatus(piece.range, limit: limit).map {
          Extent(range: $0.range, status: $0.status, depth: $0.depth == 0 ? 0 : layers.count)
        }
      } catch {
        throw error.naming(layers.name(layers.count - 1), piece.range)
      }
    }
    let status: Extent.Status =
      switch run.content {
      // Reading what isn't readable fails.
      case .data, .unreadable: []
      case .compressed: .compressed
      case .zeroes: .zero
      case .hole, .nothing: [.zero, .hole]
      }
    return [Extent(range: piece.range, status: status, depth: run.content == .nothing ? 0 : Int(run.layer) + 1)]
  }

  // MARK: Changes

  nonisolated(nonsending)
    package func write(_ bytes: RawSpan, at offset: UInt64, options: WriteOptions) async throws(BlockError)
  { throw refusal(.write) }

  nonisolated(nonsending)
    package func writeZeroes(_ range: ByteRange, options: ZeroOptions) async throws(BlockError)
  { throw refusal(.writeZeroes) }

  nonisolated(nonsending)
    package func discard(_ range: ByteRange) async throws(BlockError)
  { throw refusal(.discard) }

  nonisolated(nonsending)
    package func resize(to byteCount: UInt64) async throws(BlockError)
  { throw refusal(.resize) }

  private func refusal(_ operation: BlockError.Operation) -> BlockError {
    BlockError(isClosed ? .closed : .readOnly, operation)
  }

  nonisolated(nonsending)
    package func flush() async throws(BlockError)
  {
    if isClosed { throw BlockError(.closed, .flush) }
  }

  nonisolated(nonsending)
    package func close() async throws(BlockError)
  {
    let hold = await requests.acquire(ByteRange(offset: 0, length: .max), .exclusive)
    defer { requests.release(hold) }
    if isClosed { return }
    isClosed = true
    await layers.close()
  }
}

extension BlockError {
  /// The same, of a file of a chain.
  fileprivate func naming(_ file: String, _ range: ByteRange) -> BlockError {
    BlockError(kind, operation, self.range ?? range, cause: cause.map { "\(file): \($0)" } ?? file)
  }
}
