import CMicrohttpd
import Glibc

// What libmicrohttpd calls for a request, on the thread that serves its connection: once with the head, then with each
// piece of the body, then once more, and again after each resumption.
extension Exchange {
  /// What libmicrohttpd hands over with a call.
  struct Call {
    let connection: OpaquePointer
    let method: UnsafePointer<CChar>
    let version: UnsafePointer<CChar>
    /// The piece of the body; empty with the head and at the end.
    let piece: UnsafeRawBufferPointer
  }

  enum CallOutcome {
    case consumed
    /// The connection is parked and the piece not taken.
    case held
    case broken
  }

  func handle(_ call: Call) -> CallOutcome {
    switch phase {
    case .requestLine:
      return begin(call)
    case .uploading:
      if !call.piece.isEmpty { return take(call.piece) }
      body?.finish(.end)
      phase = .answering
      return awaitAnswer(call.connection)
    case .headComplete:
      return answerAtOnce(call.connection)
    case .answering:
      return awaitAnswer(call.connection)
    case .settled(let response):
      if !call.piece.isEmpty { return throwAway(call.piece.count) }
      return queue(response, on: call.connection) ? .consumed : .broken
    case .queued:
      return .consumed
    }
  }

  // MARK: The head

  private func begin(_ call: Call) -> CallOutcome {
    service.connections.headIsIn(cmhd_connection_fd(call.connection))
    let fields = RequestHead.fields(of: call.connection)
    let version = String(cString: call.version)
    var fault: HTTPFault?
    var path = "*", query: String?
    var framing = RequestHead.Framing.none
    do throws(HTTPFault) {
      (path, query) = try RequestHead.split(target)
      try checkForNul(call.version)
      try RequestHead.checkNames(fields)
      framing = try RequestHead.framing(fields, version: version)
    } catch {
      fault = error
    }
    let hasBody = if case .none = framing { false } else { true }
    let body = hasBody ? HTTPBody(highWater: service.options.uploadBufferBytes) : HTTPBody(bytes: [])
    let request = HTTPRequest(
      method: String(cString: call.method), path: path, query: query, version: version, headers: fields,
      peer: RequestHead.peer(of: call.connection), isSecure: cmhd_tls_session(call.connection) != nil,
      hasBody: hasBody, body: body)
    // Other threads see the exchange from `enter` on: what they read is set before.
    self.body = body
    self.request = request
    body.onRoom { [weak self] in self?.wake() }
    open(call.connection)
    let (isStopping, isClosing) = service.liveRequests.enter(self)
    if isClosing { setClosing() }
    if isStopping { fault = fault ?? .stopping }
    if let fault {
      // How much follows is unknown where the framing is bad: the connection must not be used again.
      return settle(service.responder.response(to: fault, for: request), framing, call.connection, mustClose: true)
    }
    return admit(request, framing, call.connection)
  }

  /// libmicrohttpd gives the target as a C string: a NUL in it would cut it short unseen. What follows the target in
  /// its buffer is one byte and then the version.
  private func checkForNul(_ version: UnsafePointer<CChar>) throws(HTTPFault) {
    guard version.pointee != 0, targetAddress != 0 else { return }
    guard UInt(bitPattern: version) == targetAddress + UInt(target.count) + 1 else {
      throw .malformedTarget("the request target holds a NUL")
    }
  }

  private func admit(
    _ request: HTTPRequest, _ framing: RequestHead.Framing, _ connection: OpaquePointer
  ) -> CallOutcome {
    switch service.responder.admit(request) {
    case .reject(let response):
      return settle(response, framing, connection, mustClose: false)
    case .accept(let limit):
      if case .length(let length) = framing, length > UInt64(max(limit, 0)) {
        let fault = service.responder.response(to: .bodyTooLarge(limit: limit), for: request)
        return settle(fault, framing, connection, mustClose: false)
      }
      bodyLimit = limit
      guard request.hasBody else {
        phase = .headComplete
        return .consumed
      }
      phase = .uploading
      launch(request)
      return .consumed
    }
  }

  /// The answer is known from the head alone. A short body is read and thrown away first, as a client that still
  /// sends may never see an answer before the end; a long one, or one that waits for `100 Continue`, isn't.
  private func settle(
    _ response: HTTPResponse, _ framing: RequestHead.Framing, _ connection: OpaquePointer, mustClose: Bool
  ) -> CallOutcome {
    let isShort =
      switch framing {
      case .none, .chunked: true
      case .length(let length): length <= UInt64(service.options.unreadBodyLimit)
      }
    guard isShort, !mustClose, request?.headers["Expect"] == nil else {
      return queue(response, on: connection) ? .consumed : .broken
    }
    phase = .settled(response)
    return .consumed
  }

  // MARK: The body

  private func take(_ piece: UnsafeRawBufferPointer) -> CallOutcome {
    guard let body else { return .broken }
    if piece.count > bodyLimit - bodyBytes { body.finish(.failed(HTTPBodyTooLarge(limit: bodyLimit))) }
    if body.isFinished { return throwAway(piece.count) }
    let chunk = Array(piece)
    while true {
      beginCheck()
      if body.offer(chunk) {
        bodyBytes += chunk.count
        return .consumed
      }
      switch park() {
      case .parked: return .held
      case .woken: continue
      case .over: return .broken
      }
    }
  }

  private func throwAway(_ count: Int) -> CallOutcome {
    unreadBytes += count
    return unreadBytes > service.options.unreadBodyLimit ? .broken : .consumed
  }

  // MARK: The answer

  private func answerAtOnce(_ connection: OpaquePointer) -> CallOutcome {
    guard let request else { return .broken }
    if let response = service.responder.answerNow(request) {
      return queue(response, on: connection) ? .consumed : .broken
    }
    phase = .answering
    launch(request)
    return awaitAnswer(connection)
  }

  private func awaitAnswer(_ connection: OpaquePointer) -> CallOutcome {
    while true {
      beginCheck()
      if let response = takeResponse() {
        return queue(response, on: connection) ? .consumed : .broken
      }
      switch park() {
      case .parked: return .consumed
      case .woken: continue
      case .over: return .broken
      }
    }
  }
}
