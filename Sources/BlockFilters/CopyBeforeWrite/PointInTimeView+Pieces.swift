import BlockCore
import Buffers

/// A read of a view goes piece by piece, and takes each from where its bytes are by then.
extension PointInTimeView {
  /// A part of a read whose bytes are in one place.
  struct Piece {
    enum Place {
      case source
      /// In the source, and being copied from there.
      case copying(GrainCopy)
      case kept(PointInTime.Content)
    }

    let range: ByteRange
    let place: Place
  }

  /// Grains and answers of the source that one call for the status looks at.
  static let statusStepLimit = 1 << 16

  /// The next piece of a read from `position` to `end`: of one grain, but for the source.
  func piece(from position: UInt64, to end: UInt64) -> Piece {
    let grain = point.grains.grain(at: position)
    let first = ByteRange(position..<min(grain.end, end))
    let content = point.content(of: grain)
    guard case .source = content else { return Piece(range: first, place: .kept(content)) }
    if let copy = filter.copies[grain.offset] { return Piece(range: first, place: .copying(copy)) }
    let limit = min(end, position + max(point.grains.grainByteCount, filter.options.copyByteCount))
    var last = grain
    while last.end < limit, point.pending.contains(last.end), filter.copies[last.end] == nil {
      last = point.grains.grain(at: last.end)
    }
    return Piece(range: ByteRange(position..<min(last.end, limit)), place: .source)
  }

  /// Reads a piece without waiting; false if that can't be.
  func tryRead(_ piece: Piece, into buffer: inout MutableRawSpan) throws(BlockError) -> Bool {
    let offset = piece.range.offset
    switch piece.place {
    // While a copy is under way no change has been let go yet.
    case .source, .copying:
      guard try filter.next.tryRead(into: &buffer, at: offset) else { return false }
      point.report.sourceByteCount += piece.range.length
    case .kept(.zero): buffer.zero()
    case .kept(.backing): return try filter.backing?.tryRead(into: &buffer, at: offset) ?? false
    case .kept(.stored(let grain)):
      do {
        return try filter.store.tryRead(grain, into: &buffer, at: offset)
      } catch {
        throw lost(error)
      }
    case .kept(.source), .kept(.none): return false
    }
    return true
  }

  /// Reads a piece; false if it has to be looked for again.
  func read(_ piece: Piece, into buffer: inout MutableRawSpan) async throws(BlockError) -> Bool {
    switch piece.place {
    case .source: try await readSource(piece.range, into: &buffer)
    case .copying(let copy):
      guard let bytes = copy.bytes, bytes.range.contains(piece.range) else {
        await copy.waitForBytes()
        // What has bytes of other grains only goes on to its end.
        if let bytes = copy.bytes, !bytes.range.contains(piece.range) { await copy.waitForEnd() }
        return false
      }
      buffer.copy(from: bytes.bytes(at: piece.range.offset, Int(piece.range.length)))
    case .kept(let content): try await readKept(piece.range, content, into: &buffer)
    }
    return true
  }

  /// Reads the source, and then takes what was kept meanwhile from there (C4).
  private func readSource(_ range: ByteRange, into buffer: inout MutableRawSpan) async throws(BlockError) {
    let read = SourceRead(range, for: point)
    filter.sourceReads.append(read)
    do {
      try await filter.next.read(into: &buffer, at: range.offset)
      point.report.sourceByteCount += range.length
    } catch {
      end(read, nil)
      throw error
    }
    end(read, buffer.bytes)
    for grain in point.grains.each(of: point.grains.rounded(range)) where !point.pending.contains(grain.offset) {
      guard let wanted = grain.intersection(range) else { continue }
      let start = Int(wanted.offset - range.offset)
      var part = buffer.part(start..<start + Int(wanted.length))
      try await readKept(wanted, point.content(of: grain), into: &part)
    }
  }

  private func end(_ read: SourceRead, _ bytes: RawSpan?) {
    filter.sourceReads.removeAll { $0 === read }
    read.end(bytes, filter.pool, grainByteCount: point.grains.grainByteCount)
  }

  private func readKept(
    _ range: ByteRange, _ content: PointInTime.Content, into buffer: inout MutableRawSpan
  ) async throws(BlockError) {
    switch content {
    case .zero: buffer.zero()
    case .backing: try await readBacking(range, into: &buffer)
    case .stored(let grain):
      do {
        try await filter.store.read(grain, into: &buffer, at: range.offset)
      } catch {
        throw lost(error)
      }
    case .source, .none: throw Self.notReadable(range)
    }
  }

  /// What was kept can't be read, so that the point is lost.
  private func lost(_ error: BlockError) -> BlockError {
    filter.lose(.storeFailed(error)) { $0 === point }
    return PointInTimeLoss.storeFailed(error).error(.read)
  }

  private func readBacking(_ range: ByteRange, into buffer: inout MutableRawSpan) async throws(BlockError) {
    guard let backing = filter.backing else { throw BlockError(.closed, .read, range) }
    // The disk may be longer than its backing file.
    let count = Int(min(range.end, max(range.offset, backing.byteCount)) - range.offset)
    buffer.zero(count..<buffer.byteCount)
    var part = buffer.part(0..<count)
    try await backing.read(into: &part, at: range.offset)
  }

  // MARK: Status

  /// What follows `position`: at least one extent, unless that has to be looked for again.
  func status(from position: UInt64, to end: UInt64, limit: Int) async throws(BlockError) -> [Extent] {
    let grain = point.grains.grain(at: position)
    let range = ByteRange(position..<min(grain.end, end))
    let ticket = point.beginRead()
    defer { point.endRead(ticket) }
    switch point.content(of: grain) {
    case .source: return try await sourceStatus(position, end, limit)
    case .zero: return [Extent(range: range, status: [.zero, .hole], depth: 1)]
    case .backing: return [Extent(range: range, status: [], depth: 2)]
    case .stored, .none: return [Extent(range: range, status: [], depth: 1)]
    }
  }

  /// What the source says, up to the first grain that was kept meanwhile.
  private func sourceStatus(_ position: UInt64, _ end: UInt64, _ limit: Int) async throws(BlockError) -> [Extent] {
    guard let pending = point.pending.nextDirty(from: position) else { return [] }
    let asked = ByteRange(position..<min(pending.end, end))
    let extents = try await filter.next.blockStatus(asked, limit: limit)
    let stillPending = point.pending.nextDirty(from: position).map { $0.offset == position ? $0.end : position }
    return extents.compactMap { extent in
      let told = ByteRange(position..<max(position, stillPending ?? position))
      return extent.range.intersection(told).map { Extent(range: $0, status: extent.status, depth: extent.depth) }
    }
  }
}
