import BlockCore
import EventLoops
import Glibc

/// A lasting way to a server: one connection at a time, renewed when it breaks, and then requests that weren't
/// answered are sent again. Confined to the device's loop.
///
/// No request waits for ever. A connection that breaks is made again for `reconnectTimeout`. A server that is there
/// and silent loses its connection after `answerTimeout`, and what was sent to it fails: it may still carry a WRITE
/// out, so sending that again could later undo a newer one. Requests whose task was cancelled wait no longer than
/// ``longestCancelledTimeout`` for a server that is silent or away.
final class ClientLink: @unchecked Sendable {
  // Safe to hand over: confined to the device's loop.

  struct Timeouts: Sendable {
    var reconnect: Duration
    var answer: Duration
  }

  /// How often one request is sent before it fails: one that breaks the server mustn't do so for ever.
  private static let maximumAttemptCount = 8
  private static let firstPause = Duration.milliseconds(50)
  private static let longestPause = Duration.seconds(2)
  private static let goodbyeTimeout = Duration.seconds(1)
  private static let longestCancelledTimeout = Duration.seconds(5)

  private let loop: EventLoop
  private let dialing: ClientDialing
  private let timeout: Timeouts
  /// What every connection must agree on, as the first did.
  private let terms: Agreement
  private let queue = CallQueue()
  private let progress = LinkProgress()
  private var connection: ClientConnection?
  private var isClosing = false
  /// Since when there has been no connection that brought anything, and the pause before the next attempt.
  private var outage: (start: Nanoseconds, pause: Duration)?
  /// Why there will be no further connection.
  private var end: (kind: BlockError.Kind, cause: String?)?
  private var supervision: Task<Void, Never>?
  /// Requests that wait for an answer or to be sent.
  var load: Int { queue.count + (connection?.pendingCount ?? 0) }
  var isDead: Bool { end != nil }
  private(set) var reconnectionCount = 0

  /// - Parameter terms: what later connections are measured by; `agreement` is what this one agreed on.
  init(
    _ stream: any ByteStream, _ agreement: Agreement, terms: Agreement, _ dialing: ClientDialing, _ timeout: Timeouts,
    on loop: EventLoop
  ) {
    self.terms = terms
    self.dialing = dialing
    self.timeout = timeout
    self.loop = loop
    connect(stream, agreement)
  }

  private func connect(_ stream: any ByteStream, _ agreement: Agreement) {
    connection = ClientConnection(stream, agreement, queue, progress, timeout: timeout.answer, on: loop)
  }

  func start() {
    supervision = Task(executorPreference: loop) { [self] in
      // Once the loops are shut down no task waits for an answer any more.
      _ = try? await loop.run { [self] in await supervise() }
      finish(.closed, nil)
    }
  }

  // MARK: Requests

  /// Sends the request and waits for its answer. The memory that it points at is in use until then.
  func perform(_ call: ClientCall) async throws(BlockError) {
    try await answer(to: call).get()
  }

  /// Takes the caller's isolation as a parameter: only by capturing it does the closure stay on the loop.
  private func answer(
    to call: ClientCall, isolation: isolated (any Actor)? = #isolation
  ) async -> Result<Void, BlockError> {
    await withTaskCancellationHandler {
      _ = isolation
      return await withUnsafeContinuation { continuation in
        call.continuation = continuation
        // Looked at here, as other tasks may run before the closure does.
        if let end {
          call.fail(end.kind, end.cause)
        } else {
          queue.append(call)
        }
      }
    } onCancel: {
      // By way of the loop: the handler may run anywhere.
      Task(executorPreference: loop) { [self] in
        call.cancel(Task(executorPreference: loop) { [self] in await hurry(call) })
      }
    }
  }

  /// Sees to it that a request whose task was cancelled doesn't wait for a server that is silent or away.
  private func hurry(_ call: ClientCall) async {
    let timeout = min(Self.longestCancelledTimeout, timeout.answer / 4)
    while !call.isFinished {
      let seen = progress.receiptCount
      do throws(SystemError) { try await loop.sleep(for: timeout) } catch { return }
      guard !call.isFinished, progress.receiptCount == seen else { continue }
      if queue.remove(call) {
        call.fail(.cancelled, "the NBD server at \(dialing.uri) didn't answer")
      } else {
        connection?.end(ServerSilence(duration: timeout, isForAll: false))
      }
    }
  }

  // MARK: Life

  /// Says goodbye and ends; nothing is in flight.
  func close() async {
    isClosing = true
    let supervision = supervision
    if let connection { connection.leave() } else { supervision?.cancel() }
    // A server that doesn't take the goodbye is left without.
    let timer = Task(executorPreference: loop) { [loop] in
      do throws(SystemError) { try await loop.sleep(for: Self.goodbyeTimeout) } catch { return }
      supervision?.cancel()
    }
    await supervision?.value
    timer.cancel()
  }

  private func supervise() async {
    while let connection {
      let start = Nanoseconds.now
      let seen = progress.receiptCount
      if isClosing { connection.leave() }
      let fault = await connection.serve()
      self.connection = nil
      settle(connection.takePending(), fault)
      if isClosing { return finish(.closed, nil) }
      if let violation = fault as? NBDProtocolError {
        return finish(.io(errno: EPROTO), "the NBD server at \(dialing.uri) broke the protocol: \(violation)")
      }
      // One that came up only to break at once is no end of an outage.
      let lifetime = Duration.nanoseconds(Int64(clamping: Nanoseconds.now.since(start)))
      if progress.receiptCount != seen || lifetime > Self.longestPause { outage = nil }
      await reconnect(fault)
    }
  }

  /// What becomes of requests that a connection leaves unanswered: those that may be sent again go first.
  private func settle(_ calls: [ClientCall], _ fault: any Error) {
    let silence = fault as? ServerSilence
    var again: [ClientCall] = []
    for call in calls {
      if let silence, call.isCancelled {
        call.fail(.cancelled, "the NBD server at \(dialing.uri): \(silence)")
      } else if let silence, silence.isForAll || call.command.changesBytes {
        call.fail(.io(errno: ETIMEDOUT), "the NBD server at \(dialing.uri): \(silence)")
      } else if call.attemptCount >= Self.maximumAttemptCount {
        call.fail(.io(errno: EIO), "the connection to \(dialing.uri) broke each time it was sent: \(fault)")
      } else {
        call.restart()
        again.append(call)
      }
    }
    queue.putFirst(again)
  }

  private func finish(_ kind: BlockError.Kind, _ cause: String?) {
    guard end == nil else { return }
    end = (kind, cause)
    for call in queue.removeAll() { call.fail(kind, cause) }
  }

  /// Makes a new connection on the old terms; without one when timeout is at its end, and all requests have failed.
  private func reconnect(_ fault: any Error) async {
    var fault = fault
    var outage = outage ?? (Nanoseconds.now, Self.firstPause)
    while !isClosing {
      guard Duration.nanoseconds(Int64(clamping: Nanoseconds.now.since(outage.start))) < timeout.reconnect else {
        return finish(.io(errno: ENOTCONN), "the NBD server at \(dialing.uri) is gone: \(fault)")
      }
      do throws(SystemError) { try await loop.sleep(for: outage.pause) } catch { break }
      outage.pause = min(outage.pause * 2, Self.longestPause)
      self.outage = outage
      do {
        let (stream, agreement) = try await dialing.connect(on: loop)
        if let change = agreement.change(from: terms) {
          stream.close()
          return finish(.io(errno: ESTALE), "the export at \(dialing.uri) isn't the same any more: \(change)")
        }
        reconnectionCount += 1
        return connect(stream, agreement)
      } catch {
        fault = error
      }
    }
    finish(.closed, nil)
  }
}

extension Agreement {
  /// Why requests made for `old` may not be sent under this; nil if they may.
  func change(from old: Agreement) -> String? {
    if byteCount != old.byteCount { return "it had \(old.byteCount) bytes and has \(byteCount)" }
    if flags.contains(.readOnly) != old.flags.contains(.readOnly) {
      return flags.contains(.readOnly) ? "it is read-only now" : "it was read-only"
    }
    if style != old.style { return "other kinds of replies are in use" }
    if !flags.isSuperset(of: old.flags) { return "it can do less" }
    // The ids may differ from connection to connection.
    if Set(contexts.map(\.name)) != Set(old.contexts.map(\.name)) { return "it tells of other contexts" }
    if blockSizes.minimum > old.blockSizes.minimum || blockSizes.maximum < old.blockSizes.maximum {
      return "it takes other block sizes"
    }
    return nil
  }
}
