import BlockCore
import EventLoops
import Glibc

/// One connection to a server in transmission: one task sends what the queue holds, one takes the answers, one watches
/// that there are some. It ends once, and leaves what wasn't answered to its link. Confined to the device's loop.
final class ClientConnection: @unchecked Sendable {
  // Safe to hand over: confined to the device's loop, like the link.

  /// Headers that are sent with one call.
  private static let headerByteCount = 4096
  /// How often within its timeout the silence of the server is looked at.
  private static let tickCount = 8

  let agreement: Agreement
  private let stream: any ByteStream
  private let queue: CallQueue
  private let progress: LinkProgress
  private let loop: EventLoop
  /// How long the server may leave all requests without any answer.
  private let timeout: Duration
  private var pending: [UInt64: ClientCall] = [:]
  private var nextCookie: UInt64 = 1
  /// Nothing is received any more.
  private var isBroken = false
  private var isLeaving = false
  private var fault: (any Error)?

  init(
    _ stream: any ByteStream, _ agreement: Agreement, _ queue: CallQueue, _ progress: LinkProgress,
    timeout: Duration, on loop: EventLoop
  ) {
    self.stream = stream
    self.agreement = agreement
    self.queue = queue
    self.progress = progress
    self.timeout = timeout
    self.loop = loop
  }

  /// Requests that were sent and not answered.
  var pendingCount: Int { pending.count }

  /// The same, in the order in which they were sent; they are the caller's from now on.
  func takePending() -> [ClientCall] {
    defer { pending = [:] }
    return pending.sorted { $0.key < $1.key }.map(\.value)
  }

  /// Sends and receives until either fails, or the goodbye is said; says how it ended.
  func serve() async -> any Error {
    await withDiscardingTaskGroup { group in
      group.addTask { [self] in
        do { try await send() } catch { keep(error) }
        stream.close()
      }
      group.addTask { [self] in await watch() }
      do { try await receive() } catch { keep(error) }
      isBroken = true
      stream.close()
      queue.wakeSender()
      group.cancelAll()
    }
    return fault ?? SystemError(ECONNRESET, "the server closed the connection")
  }

  /// Ends the connection for this reason.
  func end(_ reason: any Error) {
    keep(reason)
    stream.close()
  }

  /// Has the goodbye said once the queue is empty.
  func leave() {
    isLeaving = true
    queue.wakeSender()
  }

  /// What went wrong first counts.
  private func keep(_ error: any Error) { fault = fault ?? error }

  /// Ends the connection when requests wait and nothing at all arrives for too long.
  private func watch() async {
    var seen = progress.receiptCount
    var silentTicks = 0
    while silentTicks <= Self.tickCount {
      do throws(SystemError) { try await loop.sleep(for: timeout / Self.tickCount) } catch { return }
      silentTicks = pending.isEmpty || progress.receiptCount != seen ? 0 : silentTicks + 1
      seen = progress.receiptCount
    }
    end(ServerSilence(duration: timeout, isForAll: true))
  }

  // MARK: Sending

  private func send() async throws {
    while !isBroken {
      if queue.isEmpty {
        if isLeaving { return try await sendGoodbye() }
        await queue.untilFilled { isLeaving || isBroken }
        continue
      }
      // Headers without payload gather; a payload is sent along with what came before it.
      var headers: [UInt8] = []
      var last: ClientCall?
      while last == nil, !queue.isEmpty, headers.count < Self.headerByteCount {
        let call = queue.removeFirst()
        let cookie = nextCookie
        nextCookie += 1
        call.attemptCount += 1
        pending[cookie] = call
        headers += call.header(cookie: cookie, agreement)
        if call.payloadBytes.byteCount > 0 { last = call }
      }
      if let last {
        try await stream.sendAll(headers.span.bytes, last.payloadBytes)
      } else {
        try await stream.sendAll(headers.span.bytes)
      }
    }
  }

  private func sendGoodbye() async throws {
    let goodbye = Request(.disconnect, cookie: nextCookie).bytes(agreement.style)
    try await stream.sendAll(goodbye.span.bytes)
    await stream.finish()
  }

  // MARK: Receiving

  private func receive() async throws {
    let style = agreement.style
    var reader = ReplyReader(stream, progress)
    while let header = try await reader.header(style) {
      guard let call = pending[header.cookie] else {
        throw NBDProtocolError.violation("a reply to a request that wasn't made")
      }
      switch header.body {
      case .simple(let error):
        if call.command == .read, style != .simple {
          throw NBDProtocolError.violation("a simple reply to a READ where structured ones were agreed on")
        }
        if error != 0 {
          call.refuse(WireError(onTheWire: error), "")
        } else if call.command == .read {
          let place = try call.place(at: call.offset, count: call.length)
          try await reader.fill(place)
        }
        try complete(header.cookie, call)
      case .chunk(let type, let isLast, let byteCount):
        try await take(type, byteCount, for: call, &reader)
        if isLast { try complete(header.cookie, call) }
      }
    }
  }

  private func take(_ type: UInt16, _ byteCount: Int, for call: ClientCall, _ reader: inout ReplyReader) async throws {
    let style = agreement.style
    switch ChunkType(rawValue: type) {
    case .some(.none): break
    case .offsetData:
      guard byteCount > 8 else { throw NBDProtocolError.truncated("a data chunk") }
      var fields = WireReader(try await reader.bytes(8))
      let offset = try fields.integer(UInt64.self, "the data's offset")
      let place = try call.place(at: offset, count: UInt64(byteCount - 8))
      try await reader.fill(place)
    case .offsetHole:
      guard byteCount == 12 else { throw NBDProtocolError.violation("a hole chunk of \(byteCount) bytes") }
      var fields = WireReader(try await reader.bytes(12))
      let offset = try fields.integer(UInt64.self, "the hole's offset")
      let place = try call.place(at: offset, count: UInt64(try fields.integer(UInt32.self, "the hole's length")))
      place.initializeMemory(as: UInt8.self, repeating: 0)
    case .blockStatus where style == .structured, .blockStatusExtended where style == .extended:
      let payload = try await reader.bytes(byteCount)
      try call.take(try StatusChunk(payload, style: style), agreement)
    default:
      // An error, known or not; anything else leaves no way to go on (proto.md, “Structured reply types”).
      guard type >> 15 == 1, byteCount <= 2 * WireLimits.stringByteCount else {
        throw NBDProtocolError.violation("a chunk of type \(type) with \(byteCount) bytes")
      }
      let payload = try await reader.bytes(byteCount)
      let chunk = try ErrorChunk(payload, type: type)
      call.refuse(chunk.error, chunk.message)
    }
  }

  private func complete(_ cookie: UInt64, _ call: ClientCall) throws {
    // A server on its way down answers so; it is asked again when it is back (proto.md, “Terminating transmission”).
    if call.failure?.error == .shutdown { throw SystemError(ESHUTDOWN, "the server is shutting down") }
    let outcome = try call.outcome()
    pending[cookie] = nil
    call.finish(outcome)
  }
}
