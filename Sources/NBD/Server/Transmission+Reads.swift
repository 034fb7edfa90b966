import BlockCore
import Buffers

extension Transmission {
  /// With so many bytes of replies a batch leaves although more requests are at hand: the client has something to do
  /// meanwhile.
  private static let promptByteCount = 32 << 10

  /// Answers a READ on the spot, if the device has the bytes at hand and the replies have room. No effect otherwise.
  @inline(__always)
  func tryRead(_ request: Request, since start: Nanoseconds) throws(NBDProtocolError) -> Bool {
    guard request.length > 0, request.length <= UInt64(ReplyArena.pieceByteCount), let arena = replies.openArena,
      pipeSource(for: request) == nil
    else { return false }
    let count = Int(request.length)
    guard tryPiece(request, at: request.offset, count, isLast: true, in: arena) else { return false }
    self.count(request, since: start, byteCount: request.length)
    if replies.builtByteCount >= Self.promptByteCount { replies.sendNow(on: stream) }
    return true
  }

  /// Reads one piece straight into the arena and appends it as a chunk, or as a hole if it is all zeroes.
  private func tryPiece(_ request: Request, at offset: UInt64, _ count: Int, isLast: Bool, in arena: ReplyArena) -> Bool
  {
    guard let place = arena.place(header: format.dataHeaderByteCount, payload: count) else { return false }
    // A failure is found again, and told, where there is time for it.
    let isRead = (try? arena.fill(place) { (span) throws(BlockError) in try device.tryRead(into: &span, at: offset) })
    guard isRead == true else { return false }
    if mayTellHoles(request), arena.isPayloadZero(place) {
      putHole(request, at: offset, count, isLast: isLast, in: arena)
    } else {
      arena.commit(place) { format.putDataHeader(&$0, request, offset: offset, byteCount: count, isLast: isLast) }
    }
    return true
  }

  func mayTellHoles(_ request: Request) -> Bool {
    format.style != .simple && !request.flags.contains(.dontFragment)
  }

  private func putHole(_ request: Request, at offset: UInt64, _ count: Int, isLast: Bool, in arena: ReplyArena) {
    guard let place = arena.place(header: format.holeByteCount, payload: 0) else { return }
    arena.commit(place) { format.putHole(&$0, request, offset: offset, byteCount: count, isLast: isLast) }
  }

  /// Answers a READ that has to wait.
  func answerRead(_ request: Request, since start: Nanoseconds) async {
    let mustBeWhole = format.style == .simple || request.flags.contains(.dontFragment)
    do throws(BlockError) {
      if request.length == 0 {
        await replies.append(format.success(request))
      } else if mustBeWhole, request.length > UInt64(ReplyArena.pieceByteCount) {
        try await answerWhole(request)
      } else {
        var offset = request.offset
        if let source = pipeSource(for: request) { offset = try await answerByPipe(request, from: source) }
        try await answerInPieces(request, from: offset)
      }
      finish(request, since: start, byteCount: request.length, hasFailed: false)
    } catch {
      await replies.append(format.failure(request, WireError(error), "\(error)"))
      finish(request, since: start, byteCount: 0, hasFailed: true)
    }
  }

  /// One chunk for each piece from `start` on, in whatever company.
  private func answerInPieces(_ request: Request, from start: UInt64) async throws(BlockError) {
    let end = request.offset + request.length
    var offset = start
    while offset < end, !replies.isBroken {
      let count = Int(min(UInt64(ReplyArena.pieceByteCount), end - offset))
      let isLast = offset + UInt64(count) == end
      let header = format.dataHeaderByteCount
      // Perhaps there was only no room for it before.
      if let arena = await replies.arena(header: header, payload: count),
        tryPiece(request, at: offset, count, isLast: isLast, in: arena)
      {
        replies.wakeSender()
        offset += UInt64(count)
        continue
      }
      await readBudget.acquire(count)
      defer { readBudget.release(count) }
      var buffer = pool.take(count)
      var all = buffer.mutableBytes
      var span = all.part(0..<count)
      try await device.read(into: &span, at: offset)
      let bytes = buffer.bytes.extracting(0..<count)
      let isHole = mayTellHoles(request) && bytes.isZero
      guard let arena = await replies.arena(header: header, payload: isHole ? 0 : count) else { return }
      if isHole {
        putHole(request, at: offset, count, isLast: isLast, in: arena)
      } else if let place = arena.place(header: header, payload: count) {
        arena.fill(place) { $0.copy(from: bytes) }
        let chunkOffset = offset
        arena.commit(place) {
          format.putDataHeader(&$0, request, offset: chunkOffset, byteCount: count, isLast: isLast)
        }
      }
      replies.wakeSender()
      offset += UInt64(count)
    }
  }

  /// One header for all pieces: nothing else may come between them.
  private func answerWhole(_ request: Request) async throws(BlockError) {
    var isBegun = false
    await replies.beginTurn()
    defer { replies.endTurn() }
    let end = request.offset + request.length
    var offset = request.offset
    var failure: BlockError?
    while offset < end, !replies.isBroken {
      let count = Int(min(UInt64(ReplyArena.pieceByteCount), end - offset))
      await readBudget.acquire(count)
      defer { readBudget.release(count) }
      var buffer = pool.take(count)
      var all = buffer.mutableBytes
      var span = all.part(0..<count)
      if failure == nil {
        do throws(BlockError) {
          try await device.read(into: &span, at: offset)
        } catch {
          // Before the header an error is a plain answer.
          if !isBegun { throw error }
          // A simple reply has no other way to tell (proto.md, NBD_CMD_READ).
          if format.style == .simple { return cutOff() }
          failure = error
        }
      }
      // What is promised must be sent; zeroes stand for what couldn't be read.
      if failure != nil { span.zero() }
      let header = isBegun ? 0 : format.dataHeaderByteCount
      guard let arena = await replies.arena(header: header, payload: count, inTurn: true),
        let place = arena.place(header: header, payload: count)
      else { return }
      arena.fill(place) { $0.copy(from: buffer.bytes.extracting(0..<count)) }
      arena.commit(place) {
        format.putDataHeader(
          &$0, request, offset: request.offset, byteCount: Int(request.length), isLast: false)
      }
      isBegun = true
      replies.wakeSender()
      offset += UInt64(count)
    }
    guard format.style != .simple else { return }
    let last = failure.map { format.failure(request, WireError($0), "\($0)") } ?? format.success(request)
    guard let arena = await replies.arena(header: last.count, payload: 0, inTurn: true),
      let place = arena.place(header: last.count, payload: 0)
    else { return }
    arena.commit(place) { $0.copy(from: last.span.bytes) }
    replies.wakeSender()
  }
}
