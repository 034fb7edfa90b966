import BlockCore
import Buffers
import EventLoops

/// One client in the transmission phase: an actor on the export's loop.
///
/// One task takes requests from a large receive buffer, another sends replies in batches. A READ that the device
/// answers at once is answered right there; whatever must wait is carried out by a task of its own, so replies leave
/// in the order in which they become ready. A client that doesn't take its replies stops its own requests and no other
/// client's.
actor Transmission {
  /// How many bytes of requests are taken at once.
  private static let receiveByteCount = 256 << 10

  nonisolated let loop: EventLoop
  nonisolated var unownedExecutor: UnownedSerialExecutor { loop.asUnownedSerialExecutor() }

  let export: NBDExport
  let device: any BlockDevice
  /// Those that the export had when the client came in.
  let contexts: [any ExportContext]
  let rules: RequestRules
  let format: ReplyFormat
  let pool: BufferPool
  let pipes: PipePool
  let replies: ReplyQueue
  let readBudget: ByteBudget
  private let carriers = RequestCarriers()
  private let writeBudget: ByteBudget
  private let options: NBDServerOptions
  let stream: any ByteStream

  private var waitingCount = 0
  private var isStopping = false
  private var receiver: UnsafeContinuation<Void, Never>?
  private var hasEnded = false
  private var graceTimer: Task<Void, Never>?
  private var endWaiters: [UnsafeContinuation<Void, Never>] = []
  private var isIdle: Bool { waitingCount == 0 }

  /// Takes over `stream`, which is on the export's loop.
  init(_ stream: any ByteStream, _ agreement: Agreement, _ export: NBDExport, _ server: NBDServer) {
    loop = export.loop
    self.export = export
    self.stream = stream
    pool = server.pool
    pipes = server.pipes
    options = server.options
    device = export.device
    contexts = export.contexts
    rules = RequestRules(agreement)
    format = ReplyFormat(agreement.style)
    replies = ReplyQueue(pool)
    readBudget = ByteBudget(limit: options.maximumReadByteCount)
    writeBudget = ByteBudget(limit: options.maximumWriteByteCount)
  }

  /// Serves the client until it leaves, breaks the rules or is cut off; then the stream is closed.
  /// - Returns: what it did wrong, if it did.
  func run() async -> String? {
    var complaint: String?
    await withDiscardingTaskGroup { group in
      group.addTask { await self.sendReplies() }
      complaint = await takeRequests(&group)
      // What is in flight is carried out whatever became of the client (proto.md, NBD_CMD_DISC).
      while !isIdle {
        await withUnsafeContinuation { if isIdle { $0.resume() } else { receiver = $0 } }
      }
      carriers.end()
      replies.end()
    }
    if !replies.isBroken { await stream.finish() }
    stream.close()
    hasEnded = true
    graceTimer?.cancel()
    for waiter in endWaiters { waiter.resume() }
    endWaiters = []
    return complaint
  }

  private func sendReplies() async { await replies.sendAll(on: stream) }

  /// Takes no further request, lets those in flight end, and cuts the connection when `grace` is over.
  func stop(grace: Duration) async {
    guard !isStopping else { return }
    isStopping = true
    stream.endReceiving()
    wakeReceiver()
    guard !hasEnded else { return }
    graceTimer = Task(executorPreference: loop) { [weak self, loop] in
      do throws(SystemError) { try await loop.sleep(for: grace) } catch { return }
      await self?.cutOff()
    }
  }

  /// Waits until the client is gone.
  func untilEnded() async {
    await withUnsafeContinuation { if hasEnded { $0.resume() } else { endWaiters.append($0) } }
  }

  /// Ends the connection here and now.
  func cutOff() {
    replies.breakOff()
    stream.close()
  }

  // MARK: Receiving

  private func takeRequests(_ group: inout DiscardingTaskGroup) async -> String? {
    var memory = pool.take(Self.receiveByteCount)
    let headerByteCount = format.style.requestHeaderByteCount
    var start = 0
    var end = 0
    do {
      while !isStopping, !replies.isBroken {
        let now = Nanoseconds.now
        while end - start >= headerByteCount, !isStopping {
          let request = try Request(memory.bytes, at: start, style: format.style)
          start += headerByteCount
          switch rules.verdict(request) {
          case .perform(.read):
            if try tryRead(request, since: now) { continue }
            await entrust(.init(command: .read, request: request, payload: .none, start: now), &group)
          case .perform(let command):
            let count = Int(request.payloadByteCount(format.style))
            guard let payload = try await takePayload(count, &memory, &start, &end) else { return nil }
            await entrust(.init(command: command, request: request, payload: payload, start: now), &group)
          case .refuse(let error, let text):
            let count = Int(request.payloadByteCount(format.style))
            replies.sendNow(on: stream)
            guard try await passOver(count, &memory, &start, &end) else { return nil }
            export.counters.count(request.command, byteCount: 0, nanoseconds: 0, hasFailed: true)
            await replies.append(format.failure(request, error, text.text))
          case .disconnect: return nil
          case .abort(let text): return text.text
          }
        }
        replies.sendNow(on: stream)
        // What is left is a part of a header.
        Self.moveToFront(&memory, start..<end)
        end -= start
        start = 0
        guard !isStopping, try await receive(&memory, &end) else { return nil }
      }
    } catch let error as NBDProtocolError {
      return "\(error)"
    } catch {
      // The connection is gone, which clients may do whenever they like.
    }
    return nil
  }

  private func receive(_ memory: inout PageBuffer, _ end: inout Int) async throws(SystemError) -> Bool {
    var all = memory.mutableBytes
    var free = all.part(end..<all.byteCount)
    let count = try await stream.receive(into: &free)
    end += count
    return count > 0
  }

  private static func moveToFront(_ memory: inout PageBuffer, _ range: Range<Int>) {
    guard range.lowerBound > 0, !range.isEmpty else { return }
    var all = memory.mutableBytes
    all.withUnsafeMutableBytes { bytes in
      // The two may overlap.
      guard let base = bytes.baseAddress else { return }
      base.copyMemory(from: base + range.lowerBound, byteCount: range.count)
    }
  }

  /// A request's payload, nil if the client left before its end. What isn't there yet is received straight into it.
  private func takePayload(
    _ count: Int, _ memory: inout PageBuffer, _ start: inout Int, _ end: inout Int
  ) async throws(SystemError) -> Payload? {
    guard count > 0 else { return Payload.none }
    let present = min(count, end - start)
    // Replies never wait for what the client has yet to send.
    if present < count || !writeBudget.isOpen(for: count) { replies.sendNow(on: stream) }
    await writeBudget.acquire(count)
    let payload = Payload(pool.take(count), byteCount: count, budget: writeBudget)
    payload.fill(from: memory.bytes.extracting(start..<start + present))
    start += present
    return try await payload.receive(from: present, stream) ? payload : nil
  }

  /// Reads past an unwanted payload; false if the client left before its end.
  private func passOver(
    _ count: Int, _ memory: inout PageBuffer, _ start: inout Int, _ end: inout Int
  ) async throws(SystemError) -> Bool {
    let present = min(count, end - start)
    start += present
    var left = count - present
    guard left > 0 else { return true }
    // The buffer is used up, so all of it can serve.
    start = 0
    end = 0
    while left > 0 {
      var all = memory.mutableBytes
      var part = all.part(0..<min(left, all.byteCount))
      let received = try await stream.receive(into: &part)
      if received == 0 { return false }
      left -= received
    }
    return true
  }

  // MARK: Requests that wait

  /// Has a task carry out a request that must wait.
  private func entrust(_ load: RequestCarriers.Load, _ group: inout DiscardingTaskGroup) async {
    if waitingCount >= options.maximumRequestCount { await admit() }
    waitingCount += 1
    if carriers.handOver(load) { return }
    group.addTask { await self.carry(load) }
  }

  private func carry(_ first: RequestCarriers.Load) async {
    var load: RequestCarriers.Load? = first
    while let current = load {
      if current.command == .read {
        await answerRead(current.request, since: current.start)
      } else {
        await answer(current.command, current.request, current.payload, since: current.start)
      }
      load = await carriers.next()
    }
  }

  /// Waits while there are too many requests.
  private func admit() async {
    replies.sendNow(on: stream)
    while waitingCount >= options.maximumRequestCount, !isStopping {
      await withUnsafeContinuation {
        if waitingCount < options.maximumRequestCount || isStopping { $0.resume() } else { receiver = $0 }
      }
    }
  }

  /// Counts a request out.
  func finish(_ request: Request, since start: Nanoseconds, byteCount: UInt64, hasFailed: Bool) {
    waitingCount -= 1
    count(request, since: start, byteCount: byteCount, hasFailed: hasFailed)
    if waitingCount == 0 || waitingCount == options.maximumRequestCount - 1 { wakeReceiver() }
  }

  @inline(__always)
  func count(_ request: Request, since start: Nanoseconds, byteCount: UInt64, hasFailed: Bool = false) {
    export.counters.count(
      request.command, byteCount: byteCount, nanoseconds: Nanoseconds.now.since(start), hasFailed: hasFailed)
  }

  private func wakeReceiver() {
    if let waiting = receiver {
      receiver = nil
      waiting.resume()
    }
  }
}
