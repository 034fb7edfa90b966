import BlockCore
import EventLoops
import Glibc

/// One connection of a client to its server, renewed when it breaks: requests that weren't answered are sent again.
///
/// Confined to the device's loop. While a connection is up, one task sends and one receives; their end brings what
/// was not answered back to the head of the queue.
final class ClientLink: @unchecked Sendable {
  // Safe to hand over: confined to the device's loop.

  /// How often one request is sent before it fails: one that breaks the server mustn't do so for ever.
  private static let maximumAttemptCount = 8
  private static let firstPause = Duration.milliseconds(50)
  private static let goodbyeTimeout = Duration.seconds(1)
  private static let longestPause = Duration.seconds(2)

  private let loop: EventLoop
  private let dialing: ClientDialing
  /// How long after a break it is tried to connect again.
  private let patience: Duration
  /// What every connection must agree on, as the first did.
  private let terms: Agreement
  private var stream: (any ByteStream)?
  private var queue: [ClientCall] = []
  private var pending: [UInt64: ClientCall] = [:]
  private var nextCookie: UInt64 = 1
  private var sender: UnsafeContinuation<Void, Never>?
  private var isClosing = false
  /// Nothing is received on the present connection any more.
  private var isBroken = false
  /// Why there will be no further connection.
  private var end: BlockError.Kind?
  private var endCause: String?
  private var supervision: Task<Void, Never>?
  /// Requests that wait for an answer or to be sent.
  var load: Int { queue.count + pending.count }
  var isDead: Bool { end != nil }
  private(set) var reconnectionCount = 0

  init(
    _ stream: any ByteStream, _ terms: Agreement, _ dialing: ClientDialing, patience: Duration, on loop: EventLoop
  ) {
    self.stream = stream
    self.terms = terms
    self.dialing = dialing
    self.patience = patience
    self.loop = loop
  }

  func start() {
    supervision = Task(executorPreference: loop) { [self] in
      // Once the loops are shut down nobody waits for an answer any more.
      _ = try? await loop.run { [self] in await supervise() }
      finish(.closed, nil)
    }
  }

  /// Sends the request and waits for its answer. Not cut short by cancellation: the memory is in use until then.
  nonisolated(nonsending)
    func perform(_ call: ClientCall) async throws(BlockError)
  {
    if let end { throw BlockError(end, call.command.operation, cause: endCause) }
    let result = await withUnsafeContinuation { (continuation: UnsafeContinuation<Result<Void, BlockError>, Never>) in
      call.continuation = continuation
      queue.append(call)
      wakeSender()
    }
    try result.get()
  }

  /// Says goodbye and ends; nothing is in flight.
  nonisolated(nonsending)
    func close() async
  {
    isClosing = true
    let supervision = supervision
    if stream == nil { supervision?.cancel() }
    wakeSender()
    // A server that doesn't take the goodbye is left without.
    let timer = Task(executorPreference: loop) { [loop] in
      do throws(SystemError) { try await loop.sleep(for: Self.goodbyeTimeout) } catch { return }
      supervision?.cancel()
    }
    await supervision?.value
    timer.cancel()
  }

  private func wakeSender() {
    let waiting = sender
    sender = nil
    waiting?.resume()
  }

  // MARK: Life

  nonisolated(nonsending)
    private func supervise() async
  {
    while let stream {
      let fault = await serve(stream)
      stream.close()
      self.stream = nil
      takeBackPending()
      if isClosing { return finish(.closed, nil) }
      if let violation = fault as? NBDProtocolError {
        return finish(.io(errno: EPROTO), "the NBD server at \(dialing.uri) broke the protocol: \(violation)")
      }
      self.stream = await reconnect(fault)
      if self.stream != nil { reconnectionCount += 1 }
    }
  }

  /// Unanswered requests go first again, in their old order.
  private func takeBackPending() {
    var calls: [ClientCall] = []
    for (_, call) in pending.sorted(by: { $0.key < $1.key }) {
      if call.attemptCount >= Self.maximumAttemptCount {
        call.finish(
          .failure(
            BlockError(.io(errno: EIO), call.command.operation, cause: "the connection broke each time it was sent")))
      } else {
        call.restart()
        calls.append(call)
      }
    }
    pending = [:]
    queue = calls + queue
  }

  private func finish(_ kind: BlockError.Kind, _ cause: String?) {
    guard end == nil else { return }
    end = kind
    endCause = cause
    let calls = queue
    queue = []
    for call in calls { call.finish(.failure(BlockError(kind, call.command.operation, cause: cause))) }
  }

  /// A new connection on the old terms, or nil when patience is at its end: then all requests have failed.
  nonisolated(nonsending)
    private func reconnect(_ fault: any Error) async -> (any ByteStream)?
  {
    let start = Nanoseconds.now
    var pause = Self.firstPause
    var fault = fault
    while !isClosing {
      guard Duration.nanoseconds(Int64(clamping: Nanoseconds.now.since(start))) < patience else {
        finish(.io(errno: ENOTCONN), "the NBD server at \(dialing.uri) is gone: \(fault)")
        return nil
      }
      do throws(SystemError) { try await loop.sleep(for: pause) } catch { break }
      pause = min(pause * 2, Self.longestPause)
      do {
        let (stream, agreement) = try await dialing.connect(on: loop)
        guard agreement.isCompatible(with: terms) else {
          stream.close()
          finish(.io(errno: ESTALE), "the export at \(dialing.uri) isn't the same any more")
          return nil
        }
        return stream
      } catch {
        fault = error
      }
    }
    finish(.closed, nil)
    return nil
  }

  /// Sends and receives until either fails; says how.
  nonisolated(nonsending)
    private func serve(_ stream: any ByteStream) async -> any Error
  {
    let faults = FaultBox()
    isBroken = false
    await withDiscardingTaskGroup { group in
      group.addTask { [self] in
        do { try await send(on: stream) } catch { faults.keep(error) }
        stream.close()
      }
      do { try await receive(from: stream) } catch { faults.keep(error) }
      stream.close()
      wakeSender()
    }
    return faults.first ?? SystemError(ECONNRESET, "the server closed the connection")
  }

  /// What went wrong first. Confined to the loop.
  private final class FaultBox: @unchecked Sendable {
    // Safe to hand over: confined to the device's loop, like the link.
    var first: (any Error)?
    func keep(_ error: any Error) { first = first ?? error }
  }

  // MARK: Sending

  nonisolated(nonsending)
    private func send(on stream: any ByteStream) async throws
  {
    while !isBroken {
      if queue.isEmpty {
        if isClosing { return try await sendGoodbye(on: stream) }
        // Looked at again inside, as other tasks may run before the closure does. Woken at the connection's end too.
        await withUnsafeContinuation { continuation in
          if queue.isEmpty, !isClosing, !isBroken { sender = continuation } else { continuation.resume() }
        }
        continue
      }
      // Headers without payload gather; a payload is sent along with what came before it.
      var headers: [UInt8] = []
      var last: ClientCall?
      while last == nil, !queue.isEmpty, headers.count < 4096 {
        let call = queue.removeFirst()
        let cookie = nextCookie
        nextCookie += 1
        call.attemptCount += 1
        pending[cookie] = call
        headers += call.request(cookie: cookie, style: terms.style).bytes(terms.style)
        if call.payloadBytes.byteCount > 0 { last = call }
      }
      if let last {
        try await stream.sendAll(headers.span.bytes, last.payloadBytes)
      } else {
        try await stream.sendAll(headers.span.bytes)
      }
    }
  }

  nonisolated(nonsending)
    private func sendGoodbye(on stream: any ByteStream) async throws
  {
    let goodbye = Request(.disconnect, cookie: nextCookie).bytes(terms.style)
    try await stream.sendAll(goodbye.span.bytes)
    await stream.finish()
  }

  // MARK: Receiving

  nonisolated(nonsending)
    private func receive(from stream: any ByteStream) async throws
  {
    defer { isBroken = true }
    var reader = ReplyReader(stream)
    while let header = try await reader.header(terms.style) {
      guard let call = pending[header.cookie] else {
        throw NBDProtocolError.violation("a reply to a request that wasn't made")
      }
      switch header.body {
      case .simple(let error):
        if call.command == .read, terms.style != .simple {
          throw NBDProtocolError.violation("a simple reply to a READ where structured ones were agreed on")
        }
        if error != 0 {
          call.fail(WireError(onTheWire: error), "")
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

  nonisolated(nonsending)
    private func take(_ type: UInt16, _ byteCount: Int, for call: ClientCall, _ reader: inout ReplyReader) async throws
  {
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
    case .blockStatus where terms.style == .structured, .blockStatusExtended where terms.style == .extended:
      let payload = try await reader.bytes(byteCount)
      try call.take(try StatusChunk(payload, style: terms.style))
    default:
      // An error, known or not; anything else leaves no way to go on (proto.md, “Structured reply types”).
      guard type >> 15 == 1, byteCount <= 2 * WireLimits.stringByteCount else {
        throw NBDProtocolError.violation("a chunk of type \(type) with \(byteCount) bytes")
      }
      let payload = try await reader.bytes(byteCount)
      let chunk = try ErrorChunk(payload, type: type)
      call.fail(chunk.error, chunk.message)
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

extension Agreement {
  /// True if requests made for `old` may be sent under this.
  func isCompatible(with old: Agreement) -> Bool {
    byteCount == old.byteCount && style == old.style && flags.isSuperset(of: old.flags)
      && flags.contains(.readOnly) == old.flags.contains(.readOnly) && contexts == old.contexts
      && blockSizes.minimum <= old.blockSizes.minimum && blockSizes.maximum >= old.blockSizes.maximum
  }
}
