import BlockCore
import Buffers

extension Transmission {
  /// The most that one CACHE request reads ahead.
  private static let cacheByteCount: UInt64 = 32 << 20

  /// Carries out anything but a READ.
  func answer(_ command: Command, _ request: Request, _ payload: Payload, since start: Nanoseconds) async {
    do throws(BlockError) {
      let reply = try await perform(command, request, payload)
      payload.release()
      for part in reply { await replies.append(part) }
      finish(request, since: start, byteCount: byteCount(command, request), hasFailed: false)
    } catch {
      payload.release()
      await replies.append(format.failure(request, WireError(error), "\(error)"))
      finish(request, since: start, byteCount: 0, hasFailed: true)
    }
  }

  private func byteCount(_ command: Command, _ request: Request) -> UInt64 {
    switch command {
    case .blockStatus, .flush, .disconnect: 0
    case .read, .write, .trim, .cache, .writeZeroes: request.length
    }
  }

  private func perform(
    _ command: Command, _ request: Request, _ payload: Payload
  ) async throws(BlockError) -> [[UInt8]] {
    let isForced = request.flags.contains(.fua)
    switch command {
    case .write:
      _ = try await payload.use { (bytes) throws(BlockError) in
        try await device.write(bytes, at: request.offset, options: isForced ? .forceUnitAccess : [])
      }
    case .flush: try await device.flush()
    case .trim:
      try await discard(range(request))
      if isForced { try await device.flush() }
    case .writeZeroes:
      var options: ZeroOptions = isForced ? .forceUnitAccess : []
      if !request.flags.contains(.noHole) { options.insert(.mayUnmap) }
      if request.flags.contains(.fastZero) { options.insert(.onlyIfFast) }
      if request.length > 0 { try await device.writeZeroes(range(request), options: options) }
    case .cache: try await readAhead(range(request))
    case .blockStatus: return try await blockStatus(request, payload)
    case .read, .disconnect: break
    }
    return [format.success(request)]
  }

  private func range(_ request: Request) -> ByteRange { ByteRange(offset: request.offset, length: request.length) }

  /// A hint that the storage may have no use for.
  private func discard(_ range: ByteRange) async throws(BlockError) {
    do throws(BlockError) {
      try await device.discard(range)
    } catch {
      if error.kind != .notSupported { throw error }
    }
  }

  /// Reads the range once, so that it is at hand where there is a cache to hold it.
  private func readAhead(_ range: ByteRange) async throws(BlockError) {
    let end = min(range.end, range.offset + Self.cacheByteCount)
    var offset = range.offset
    while offset < end, !replies.isBroken {
      let count = Int(min(UInt64(ReplyArena.pieceByteCount), end - offset))
      await readBudget.acquire(count)
      defer { readBudget.release(count) }
      var buffer = pool.take(count)
      var all = buffer.mutableBytes
      var span = all.part(0..<count)
      try await device.read(into: &span, at: offset)
      offset += UInt64(count)
    }
  }

  // MARK: Block status

  private func blockStatus(_ request: Request, _ payload: Payload) async throws(BlockError) -> [[UInt8]] {
    var length = request.length
    var selection = rules.agreement.contexts
    if request.flags.contains(.payloadLength) {
      guard let wish = try? BlockStatusPayload(payload.copied()), wish.effectLength > 0,
        wish.effectLength <= rules.agreement.byteCount - request.offset
      else { throw Self.badWish }
      length = wish.effectLength
      selection = selection.filter { wish.contextIDs.contains($0.id) }
      guard selection.count == wish.contextIDs.count else { throw Self.badWish }
    }
    let range = ByteRange(offset: request.offset, length: length)
    let limit = request.flags.contains(.reqOne) ? 1 : WireLimits.extentCount
    var chunks: [[UInt8]] = []
    for (index, selected) in selection.enumerated() {
      guard let context = contexts.first(where: { $0.name == selected.name }) else {
        throw BlockError(.notSupported, .blockStatus, range, cause: selected.name)
      }
      let extents = try await context.extents(in: range, limit: limit, of: device)
      if extents.isEmpty { throw BlockError(.corrupt("no answer from \(context.name)"), .blockStatus, range) }
      let isLast = index == selection.count - 1
      chunks.append(
        format.blockStatus(
          request, contextID: selected.id, Array(extents.prefix(limit)).fitting(format.style), isLast: isLast))
    }
    return chunks
  }

  private static let badWish = BlockError(
    .notSupported, .blockStatus, cause: "the payload must have a length inside the export and ids of selected contexts")
}
