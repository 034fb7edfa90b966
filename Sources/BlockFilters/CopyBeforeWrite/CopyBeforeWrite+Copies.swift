import BlockCore
import Buffers

/// Copying old bytes aside: what is zero, or the backing file's, is remembered; the rest is read once and stored.
extension CopyBeforeWrite {
  /// Why a copy ends early.
  private enum Obstacle: Error {
    case lost(PointInTimeLoss)
    case refused
    case abandoned
  }

  /// Begins to copy the grain at `offset` and the ones after it that a change of `range` needs too.
  func startCopy(from offset: UInt64, of range: ByteRange) -> GrainCopy {
    let size = store.grainByteCount
    let end = min(range.end, offset + max(size, options.copyByteCount))
    var last = points[0].point.grains.grain(at: offset)
    while last.end < end, copies[last.end] == nil, firstNeeded(in: ByteRange(offset: last.end, length: 1)) != nil {
      last = points[0].point.grains.grain(at: last.end)
    }
    let copy = GrainCopy(ByteRange(offset..<last.end))
    for start in stride(from: offset, to: last.end, by: Int(size)) { copies[start] = copy }
    loop.start { [self] in await run(copy) }
    return copy
  }

  private func run(_ copy: GrainCopy) async {
    do throws(Obstacle) {
      if let data = try await remember(copy) { try await store(data, of: copy) }
      end(copy, .done)
    } catch {
      switch error {
      case .lost(let loss):
        lose(loss) { $0.needs(copy.range) }
        end(copy, .abandoned)
      case .refused: end(copy, .refused)
      case .abandoned: end(copy, .abandoned)
      }
    }
  }

  private func end(_ copy: GrainCopy, _ state: GrainCopy.State) {
    for grain in stride(from: copy.range.offset, to: copy.range.end, by: Int(store.grainByteCount))
    where copies[grain] === copy {
      copies[grain] = nil
    }
    copy.end(state)
  }

  /// Ends the copies that no point needs any more.
  func abandonCopies() {
    for copy in copies.values where copy.isRunning && firstNeeded(in: copy.range) == nil { end(copy, .abandoned) }
    // Copies that wait for room see that they are.
    store.wake()
  }

  // MARK: What costs nothing

  /// Keeps the grains that needn't be read.
  /// - Returns: from the first grain that must be read to the last, if any must.
  private func remember(_ copy: GrainCopy) async throws(Obstacle) -> ByteRange? {
    let extents = try await status(of: copy)
    var data: ByteRange?
    let grains = Grains(byteCount: next.byteCount, grainByteCount: store.grainByteCount)
    for grain in grains.each(of: copy.range) {
      let parts = extents.filter { $0.range.overlaps(grain) }
      if parts.allSatisfy(\.readsAsZero) {
        keep(grain, as: .zero)
      } else if backing != nil, parts.allSatisfy({ $0.depth >= 2 }) {
        keep(grain, as: .backing)
      } else {
        data = ByteRange((data?.offset ?? grain.offset)..<grain.end)
      }
    }
    return data
  }

  private func keep(_ grain: ByteRange, as content: PointInTime.Content) {
    for open in points where open.point.keep(grain, as: content) {
      open.point.report.rememberedByteCount += grain.length
    }
  }

  private func status(of copy: GrainCopy) async throws(Obstacle) -> [Extent] {
    var extents: [Extent] = []
    var offset = copy.range.offset
    while offset < copy.range.end {
      let part: [Extent]
      do {
        part = try await next.blockStatus(ByteRange(offset..<copy.range.end), limit: 64)
      } catch {
        throw copy.isRunning ? .lost(.sourceFailed(error)) : .abandoned
      }
      guard copy.isRunning else { throw .abandoned }
      guard let last = part.last, last.range.end > offset else {
        throw .lost(.sourceFailed(BlockError(.corrupt("block status doesn't get on"), .blockStatus, copy.range)))
      }
      extents += part
      offset = last.range.end
    }
    return extents
  }

  // MARK: What is read

  private func store(_ data: ByteRange, of copy: GrainCopy) async throws(Obstacle) {
    let bytes = try await read(data, for: copy)
    let grains = Grains(byteCount: next.byteCount, grainByteCount: store.grainByteCount)
    var deadline: ContinuousClock.Instant?
    for grain in grains.each(of: data) where firstNeeded(in: grain) != nil {
      guard let stored = try await keep(grain, of: bytes, for: copy, &deadline) else { continue }
      guard copy.isRunning else {
        store.drop(stored)
        throw .abandoned
      }
      for open in points where open.point.keep(grain, as: .stored(stored)) {
        open.point.report.copyCount += 1
        open.point.report.copiedByteCount += grain.length
      }
      if stored.userCount == 0 { store.drop(stored) }
    }
  }

  private func read(_ data: ByteRange, for copy: GrainCopy) async throws(Obstacle) -> GrainBytes {
    if let read = sourceReads.first(where: { $0.serves(data) }) {
      read.give(data, to: copy)
      await copy.waitForReader()
      guard copy.isRunning else { throw .abandoned }
      if let bytes = copy.bytes {
        for open in points where open.point.needs(data) { open.point.report.sharedReadCount += 1 }
        return bytes
      }
    }
    let whole = Int(data.aligned(to: store.grainByteCount).length)
    var buffer = pool.take(whole)
    var target = buffer.mutableBytes
    do {
      var part = target.part(0..<Int(data.length))
      try await next.read(into: &part, at: data.offset)
    } catch {
      throw copy.isRunning ? .lost(.sourceFailed(error)) : .abandoned
    }
    target.zero(Int(data.length)..<whole)
    for open in points where open.point.needs(data) { open.point.report.sourceByteCount += data.length }
    let bytes = GrainBytes(buffer, data)
    guard copy.isRunning else { throw .abandoned }
    copy.hasRead(bytes)
    return bytes
  }

  /// Stores a grain, as soon as there is room for it.
  /// - Returns: nil if nobody needs it any more.
  private func keep(
    _ grain: ByteRange, of bytes: GrainBytes, for copy: GrainCopy, _ deadline: inout ContinuousClock.Instant?
  ) async throws(Obstacle) -> StoredGrain? {
    while true {
      let wakes = store.wakes
      do {
        return try await store.keep(grain, of: bytes)
      } catch {
        guard copy.isRunning else { throw .abandoned }
        if case .failed(let error) = error { throw .lost(.storeFailed(error)) }
      }
      for open in points where open.point.needs(grain) { open.point.report.fullCount += 1 }
      let hasWaited = deadline.map { loop.now >= $0 } ?? false
      lose(.storeFull) { point in
        switch point.onTempFull {
        case .breakBackup: point.needs(grain)
        case .throttle: hasWaited && point.needs(grain)
        case .breakGuestWrite: false
        }
      }
      guard copy.isRunning else { throw .abandoned }
      guard firstNeeded(in: grain) != nil else { return nil }
      guard let latency = longestThrottling(of: grain) else { throw .refused }
      if deadline == nil {
        deadline = loop.now + latency
        loop.after(latency) { [store] in store.wake() }
      }
      let began = loop.now
      await store.waitForRoom(since: wakes)
      for open in points where open.point.needs(grain) { open.point.report.throttled += loop.now - began }
      guard copy.isRunning else { throw .abandoned }
    }
  }

  /// How long a change may be made to wait for room, for the sake of a point that needs the grain; nil: for none.
  private func longestThrottling(of grain: ByteRange) -> Duration? {
    points.compactMap { open in
      if case .throttle(let latency) = open.point.onTempFull, open.point.needs(grain) { latency } else { nil }
    }.max()
  }
}
