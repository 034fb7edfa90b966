import Bitmaps
import BlockCore
import BlockFilters
import BlockTesting
import Buffers
import Glibc

/// One point in time of a story: what lay on the disk then, and what may be read of it.
final class Observation: @unchecked Sendable {
  // Safe to hand over: confined to the story's loop.

  let view: PointInTimeView
  let moment: ByteModel
  /// What is wanted and not released.
  var readable: DirtyBitmap
  var readerCount = 0

  init(_ view: PointInTimeView, _ moment: ByteModel, _ readable: DirtyBitmap) {
    self.view = view
    self.moment = moment
    self.readable = readable
  }
}

extension CopyBeforeWriteStory {
  /// Opens points in time, one after the other, and has each of them read by some and copied by one.
  func observe() async throws {
    for _ in 0..<setting.roundsOfEachObserver {
      let observation = try await begin()
      observation.readerCount = 3
      for reader in 0..<3 {
        start { story in
          defer { observation.readerCount -= 1 }
          try await reader == 0 ? story.copy(observation) : story.read(observation)
        }
      }
      while observation.readerCount > 0 { await loop.breathe() }
      reports.append(observation.view.report)
      try await observation.view.close()
      try await checkClosed(observation.view)
    }
  }

  private func begin() async throws -> Observation {
    let isBarrier = setting.mistake != .beginsAmidChanges
    while isHeld { await loop.breathe() }
    if isBarrier {
      isHeld = true
      slot.hold()
      guard await slot.drain() else { throw ConformanceFailure("a drain failed, \(what)") }
    }
    let moment = try contents()
    let wanted = setting.selects && random.oneIn(2) ? selection() : nil
    let view = filter.begin(wanted: wanted) { [weak self] in self?.losses.append($0) }
    if isBarrier {
      slot.release()
      isHeld = false
    }
    return Observation(view, moment, readable(wanted))
  }

  /// What lies on the disk at this instant.
  private func contents() throws -> ByteModel {
    var bytes = [UInt8](repeating: 0, count: Int(setting.byteCount))
    var all = bytes.mutableSpan
    var span = all.mutableBytes
    guard try disk.tryRead(into: &span, at: 0) else { throw ConformanceFailure("\(what): the disk isn't at hand") }
    var model = ByteModel(byteCount: setting.byteCount)
    model.write(bytes, at: 0)
    return model
  }

  private func selection() -> DirtyBitmap {
    var wanted = DirtyBitmap(byteCount: setting.byteCount, granularity: random.oneIn(2) ? 4096 : 8192)
    for offset in stride(from: 0, to: setting.byteCount, by: 4096) where !random.oneIn(4) {
      wanted.set(ByteRange(offset: offset, length: 1))
    }
    return wanted
  }

  private func readable(_ wanted: DirtyBitmap?) -> DirtyBitmap {
    var readable = DirtyBitmap(byteCount: setting.byteCount, granularity: 4096)
    if let wanted { readable.formUnion(wanted) } else { readable.setAll() }
    return readable
  }

  /// Reads all that is readable, chunk by chunk in any order, and may release what it has read.
  private func copy(_ observation: Observation) async throws {
    let releases = setting.selects && random.oneIn(2)
    var chunks = stride(from: 0, to: setting.byteCount, by: 3 * 4096).map {
      ByteRange($0..<min(setting.byteCount, $0 + 3 * 4096))
    }
    chunks.shuffle(using: &random)
    for chunk in chunks {
      var position = chunk.offset
      while let next = observation.readable.nextDirty(from: position), next.offset < chunk.end {
        let part = ByteRange(next.offset..<min(next.end, chunk.end))
        try await compare(part, observation)
        if releases {
          observation.view.release([part])
          observation.readable.clear(part)
        }
        position = part.end
      }
    }
  }

  private func read(_ observation: Observation) async throws {
    for _ in 0..<20 {
      let alignment = random.oneIn(2) ? 1 : 512
      let range = ByteRange(
        random.range(within: setting.byteCount, alignment: alignment, maximum: 5 * 4096, near: 4096))
      if random.oneIn(4) {
        try await checkStatus(range, observation)
      } else {
        try await compare(range, observation)
      }
    }
  }

  /// Reads a range of the view: it must be what lay there at the moment, or fail for a reason.
  private func compare(_ range: ByteRange, _ observation: Observation) async throws {
    let wasReadable = observation.readable.containsAll(of: range)
    let wasLost = observation.view.loss != nil
    let found: [UInt8]
    do {
      found = try await bytes(range, of: observation)
    } catch {
      if isAllowed(error, range, observation) { return }
      throw error
    }
    guard wasReadable, !wasLost else {
      throw ConformanceFailure("\(what): \(range) could be read, readable \(wasReadable), lost \(wasLost)")
    }
    comparedCount += 1
    if let place = observation.moment.firstDifference(from: found, at: range.offset) {
      throw ConformanceFailure("\(what): the view differs from its moment at byte \(place), in \(range)")
    }
  }

  private func bytes(_ range: ByteRange, of observation: Observation) async throws(BlockError) -> [UInt8] {
    let device: any BlockDevice = setting.mistake == .readsTheSource ? filter : observation.view
    if random.oneIn(3) {
      var bytes = [UInt8](repeating: 0xA5, count: Int(range.length))
      var all = bytes.mutableSpan
      var span = all.mutableBytes
      if try device.tryRead(into: &span, at: range.offset) { return bytes }
    }
    return try await device.readBytes(Int(range.length), at: range.offset)
  }

  /// Whether a read of the view may fail so.
  private func isAllowed(_ error: BlockError, _ range: ByteRange, _ observation: Observation) -> Bool {
    switch error.kind {
    case .pointInTimeLost: observation.view.loss != nil
    case .io(errno: EPERM): !observation.readable.containsAll(of: range)
    default: error.kind == setting.sourceFault?.kind
    }
  }

  private func checkStatus(_ range: ByteRange, _ observation: Observation) async throws {
    let extents: [Extent]
    do {
      extents = try await observation.view.wholeStatus(range, limit: 1 + random.below(4))
    } catch {
      if isAllowed(error, range, observation) { return }
      throw error
    }
    guard extents.first?.range.offset == range.offset, extents.last?.range.end == range.end,
      zip(extents, extents.dropFirst()).allSatisfy({ $0.range.end == $1.range.offset })
    else { throw ConformanceFailure("\(what): the view's status has gaps, of \(range): \(extents)") }
    for extent in extents where extent.readsAsZero {
      guard observation.moment.bytes[Int(extent.range.offset)..<Int(extent.range.end)].allSatisfy({ $0 == 0 }) else {
        throw ConformanceFailure("\(what): \(extent.range) wasn't zero at the moment")
      }
    }
  }

  private func checkClosed(_ view: PointInTimeView) async throws {
    do {
      _ = try await view.readBytes(1, at: 0)
    } catch {
      if error.kind == .closed { return }
    }
    throw ConformanceFailure("\(what): a closed view can be read")
  }

  // MARK: The end

  /// The disk holds what the guests wrote, and nothing is left of the points.
  func checkEnd() async throws {
    let all = guest.beginRead(ByteRange(offset: 0, length: setting.byteCount))
    try guest.end(all, found: try await slot.readAll(), "\(what), at the end")
    // What was abandoned may still be under way.
    for _ in 0..<1000 where pool.lentByteCount > 0 || store.tempByteCount > 0 { await loop.breathe() }
    guard store.memoryByteCount == 0, store.tempByteCount == 0, pool.lentByteCount == 0, !filter.hasPoints else {
      throw ConformanceFailure(
        "\(what): left are \(store.memoryByteCount) bytes in memory, \(store.tempByteCount) in temp, "
          + "\(pool.lentByteCount) lent")
    }
  }
}
