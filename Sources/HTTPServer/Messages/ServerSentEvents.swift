import Locks

/// One server-sent event (HTML standard, "Server-sent events").
///
/// Events and their stream are hand-written because the libraries for them bring a server of their own, and libmicrohttpd
/// has none: it asks for the next bytes of a body.
package struct ServerSentEvent: Sendable {
  package let bytes: [UInt8]

  /// - Parameters:
  ///   - id: what the client sends back as `Last-Event-ID`; line ends and NUL are left out.
  ///   - name: the event's type, `message` if nil; line ends are left out.
  ///   - text: the data; each of its lines becomes a `data:` line.
  package init(id: String? = nil, name: String? = nil, text: String, retryMilliseconds: Int? = nil) {
    var frame = ""
    if let id { frame += "id: \(Self.oneLine(id))\n" }
    if let name { frame += "event: \(Self.oneLine(name))\n" }
    if let retryMilliseconds { frame += "retry: \(retryMilliseconds)\n" }
    for line in text.split(omittingEmptySubsequences: false, whereSeparator: Self.endsLine) {
      frame += "data: \(line)\n"
    }
    bytes = Array((frame + "\n").utf8)
  }

  private static func oneLine(_ text: String) -> String {
    text.filter { !endsLine($0) && $0 != "\0" }
  }

  private static func endsLine(_ character: Character) -> Bool {
    character == "\n" || character == "\r" || character == "\r\n"
  }
}

/// The events of one client: sent from any thread, never waiting.
///
/// A client that leaves more than `capacityBytes` unread is dropped, so that memory is bounded.
/// The server keeps a quiet stream alive with comments.
package final class ServerSentEvents: ResponseSource {
  /// What ties the stream to its connection once the response is queued.
  struct Attachment: Sendable {
    let wake: @Sendable () -> Void
    let abort: @Sendable () -> Void
  }

  private enum Phase: Sendable {
    case open
    /// `end` was called; what waits is still delivered.
    case ending
    case closed
  }

  private struct State: Sendable {
    var queue = OutgoingQueue()
    var phase = Phase.open
    var attachment: Attachment?
    var onClose: [@Sendable () -> Void] = []

    /// Closes, and gives back those to be told: none if it was closed before.
    mutating func close() -> [@Sendable () -> Void] {
      phase = .closed
      queue.clear()
      attachment = nil
      defer { onClose = [] }
      return onClose
    }
  }

  /// A comment, which clients ignore.
  private static let heartbeat = Array(":\n\n".utf8)

  private let capacityBytes: Int
  private let state = Lock(State())

  package init(capacityBytes: Int = 1 << 20) {
    self.capacityBytes = capacityBytes
  }

  /// Events that are sent now may still reach the client.
  package var isOpen: Bool {
    state.withLock { if case .open = $0.phase { true } else { false } }
  }

  /// Queues an event. False: the stream was ended, or the client is gone or is dropped by this very event.
  @discardableResult
  package func send(_ event: ServerSentEvent) -> Bool {
    enum Outcome {
      case queued(Attachment?)
      case dropped(Attachment?, [@Sendable () -> Void])
      case refused
    }
    let outcome = state.withLock { state -> Outcome in
      guard case .open = state.phase else { return .refused }
      guard state.queue.bytes + event.bytes.count <= capacityBytes else {
        let attachment = state.attachment
        return .dropped(attachment, state.close())
      }
      state.queue.append(event.bytes)
      return .queued(state.attachment)
    }
    switch outcome {
    case .queued(let attachment):
      attachment?.wake()
      return true
    case .dropped(let attachment, let told):
      attachment?.abort()
      told.forEach { $0() }
      return false
    case .refused:
      return false
    }
  }

  /// Ends the stream after what was sent.
  package func end() {
    let attachment = state.withLock { state -> Attachment? in
      if case .open = state.phase { state.phase = .ending }
      return state.attachment
    }
    attachment?.wake()
  }

  /// Calls `body` once, on any thread, when no event can reach the client any more: it is gone, was dropped or
  /// refused, or the stream's end is delivered. At once if that has happened.
  package func onClose(_ body: @escaping @Sendable () -> Void) {
    let isClosed = state.withLock { state in
      if case .closed = state.phase { return true }
      state.onClose.append(body)
      return false
    }
    if isClosed { body() }
  }

  /// Ties the stream to its connection; a second connection is refused with false.
  func attach(_ attachment: Attachment) -> Bool {
    state.withLock { state in
      guard state.attachment == nil, state.phase != .closed else { return false }
      state.attachment = attachment
      return true
    }
  }

  /// Keeps a quiet stream alive, and finds out whether the client is.
  func beat() {
    let attachment = state.withLock { state -> Attachment? in
      guard case .open = state.phase, state.queue.bytes == 0 else { return nil }
      state.queue.append(Self.heartbeat)
      return state.attachment
    }
    attachment?.wake()
  }

  func read(into buffer: UnsafeMutableRawBufferPointer) -> ResponseSourceStep {
    state.withLock { state in
      let count = state.queue.move(into: buffer)
      if count > 0 { return .bytes(count: count) }
      switch state.phase {
      case .open: return .wait
      case .ending: return .end
      case .closed: return .broken
      }
    }
  }

  func close() {
    state.withLock { $0.close() }.forEach { $0() }
  }
}
