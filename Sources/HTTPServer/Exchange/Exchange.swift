import CMicrohttpd
import Glibc
import Locks

/// One request and its answer, from the request line until libmicrohttpd reports that it is over.
///
/// libmicrohttpd holds it (retained) as the request's context. Its rules, which everything here keeps:
/// 1. The connection handle is used only on libmicrohttpd's thread, or under `gate` while `connection` isn't nil:
///    the completion callback takes `gate` before libmicrohttpd frees the connection.
/// 2. A connection is suspended only by `park`, and only if no `wake` came since `beginCheck`: code that makes
///    progress possible first changes the state that the thread checks, then wakes. So no wake is lost.
/// 3. Once `isClosing` is set nothing parks any more, so that the daemon can be stopped (it aborts while a connection
///    is suspended).
final class Exchange: @unchecked Sendable {
  // Safe to share: what several threads touch is in `gate`; the variables below belong to the one thread of
  // libmicrohttpd that serves the connection, or are set before others know the exchange.

  /// The steps of a request, seen from libmicrohttpd's thread.
  enum Phase {
    case requestLine
    /// A body comes in; a handler runs, unless the answer is settled.
    case uploading
    /// There is no body, and the handler wasn't asked yet.
    case headComplete
    /// A handler works on the answer.
    case answering
    /// The answer is settled and given once the rest of the body is thrown away.
    case settled(HTTPResponse)
    case queued
  }

  enum Parking {
    case parked
    /// Something happened since `beginCheck`: check again.
    case woken
    /// The client is gone or the server stops: break the connection.
    case over
  }

  private struct Gate: Sendable {
    nonisolated(unsafe) var connection: OpaquePointer?
    var descriptor: Int32 = -1
    var isParked = false
    var isWoken = false
    var isOver = false
    var isClosing = false
    var response: HTTPResponse?
    var task: Task<Void, Never>?

    /// Lets libmicrohttpd call again.
    mutating func wake(_ number: UInt64, _ watch: ClientWatch) {
      isWoken = true
      guard isParked, let connection else { return }
      isParked = false
      watch.remove(descriptor)
      MHD_resume_connection(connection)
    }
  }

  let number: UInt64
  /// The request target exactly as sent.
  let target: [UInt8]
  /// Where the target stood in libmicrohttpd's buffer, to find a NUL in it.
  let targetAddress: UInt
  let service: RequestService

  // Set once, before the exchange enters the liveRequests and so becomes known to other threads.
  var body: HTTPBody?
  var request: HTTPRequest?

  // Of libmicrohttpd's thread alone.
  var phase = Phase.requestLine
  var bodyLimit = 0
  /// How much of the body was taken, and how much thrown away.
  var bodyBytes = 0
  var unreadBytes = 0
  private var source: (any ResponseSource)?

  private let gate = Lock(Gate())

  init(number: UInt64, target: [UInt8], targetAddress: UInt, service: RequestService) {
    self.number = number
    self.target = target
    self.targetAddress = targetAddress
    self.service = service
    service.liveRequests.exchangeBegan()
  }

  deinit {
    service.liveRequests.exchangeEnded()
  }

  // MARK: On libmicrohttpd's thread

  /// Ties the exchange to its connection, before anything else may wake it.
  func open(_ connection: OpaquePointer) {
    gate.withLock { gate in
      gate.connection = connection
      gate.descriptor = cmhd_connection_fd(connection)
    }
  }

  /// The server waits for nothing any more.
  func setClosing() {
    gate.withLock { $0.isClosing = true }
  }

  /// From here on a wake keeps `park` from suspending.
  func beginCheck() {
    gate.withLock { $0.isWoken = false }
  }

  /// Suspends the connection until `wake`.
  func park() -> Parking {
    gate.withLock { gate in
      guard let connection = gate.connection, !gate.isOver, !gate.isClosing else { return .over }
      if gate.isWoken { return .woken }
      gate.isParked = true
      MHD_suspend_connection(connection)
      service.watch.add(gate.descriptor, number: number)
      return .parked
    }
  }

  /// The handler's answer, once there is one.
  func takeResponse() -> HTTPResponse? {
    gate.withLock { gate in
      defer { gate.response = nil }
      return gate.response
    }
  }

  /// The content that the queued response draws from; closed when the exchange is over.
  func draw(from source: any ResponseSource) {
    self.source = source
  }

  /// Starts the handler.
  func launch(_ request: HTTPRequest) {
    let service = service
    let task = Task(executorPreference: service.executor) { [self] in
      answered(await service.answer(request))
    }
    gate.withLock { $0.task = task }
  }

  /// Lets the next `send` on the connection fail.
  func cutOff() {
    gate.withLock { gate in
      if gate.connection != nil { shutdown(gate.descriptor, Int32(SHUT_RDWR)) }
    }
  }

  /// libmicrohttpd is through with the request; the connection handle is dead when this returns.
  func close() {
    let (task, response) = gate.withLock { gate in
      gate.connection = nil
      gate.isParked = false
      defer {
        gate.task = nil
        gate.response = nil
      }
      return (gate.task, gate.response)
    }
    response?.discard()
    if case .settled(let response) = phase { response.discard() }
    body?.finish(.failed(HTTPClientGone()))
    task?.cancel()
    source?.close()
    source = nil
  }

  // MARK: On any thread

  /// Something changed that libmicrohttpd's thread waits for.
  func wake() {
    gate.withLock { $0.wake(number, service.watch) }
  }

  /// The handler has answered. The first answer counts.
  private func answered(_ response: HTTPResponse) {
    let isTaken = gate.withLock { gate in
      guard gate.connection != nil, gate.response == nil, !gate.isOver else { return false }
      gate.response = response
      return true
    }
    if !isTaken { response.discard() }
    // A body that the handler reads no more must not hold the upload up.
    body?.finish(.failed(HTTPClientGone()))
    wake()
  }

  /// The peer closed its side while the connection was parked. A client that closes only its sending side counts as
  /// gone too, as for libmicrohttpd itself.
  func clientLeft() {
    end { gate in
      guard gate.isParked else { return false }
      gate.isOver = true
      return true
    }
  }

  /// Breaks the connection.
  func abort() {
    end { gate in
      guard gate.connection != nil else { return false }
      gate.isOver = true
      // Wakes libmicrohttpd where it waits for the client to read.
      shutdown(gate.descriptor, Int32(SHUT_RDWR))
      return true
    }
  }

  /// The grace is over: a request without an answer gets this one, and nothing is waited for any more.
  func expire(_ makeResponse: (HTTPRequest) -> HTTPResponse) {
    let response = request.map(makeResponse)
    end { gate in
      guard gate.connection != nil else { return false }
      gate.isClosing = true
      if gate.response == nil { gate.response = response }
      return true
    }
  }

  private func end(_ change: (inout Gate) -> Bool) {
    let (applies, task) = gate.withLock { gate in
      let applies = change(&gate)
      if applies { gate.wake(number, service.watch) }
      return (applies, gate.task)
    }
    guard applies else { return }
    body?.finish(.failed(HTTPClientGone()))
    task?.cancel()
  }
}

extension HTTPResponse {
  /// Tells the producer of its content that it will not be sent.
  func discard() {
    if case .events(let stream) = content { stream.close() }
  }
}
