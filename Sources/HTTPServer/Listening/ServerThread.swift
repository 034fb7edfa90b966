import CMicrohttpd
import Descriptors
import Glibc
import Locks
import Logging

/// The server's own thread: accepts connections, notices clients that leave, beats the hearts of event streams,
/// and stops everything in the end.
final class ServerThread: Sendable {
  private struct Listener: Sendable {
    let socket: ListeningSocket
    let daemon: MicrohttpdDaemon
  }

  private struct State: Sendable {
    var listeners: [UInt64: Listener] = [:]
    var nextNumber: UInt64 = 1
    var stopAt: ContinuousClock.Instant?
    var isStopped = false
    var exhaustedAt: ContinuousClock.Instant?
    var waiters: [CheckedContinuation<Void, Never>] = []
  }

  /// Event streams beat in this many groups, one after the other, so that they don't all wake at once.
  private static let heartbeatTurns: UInt64 = 16
  /// Connections accepted before other listeners have their turn.
  private static let acceptBatch = 64
  /// How long the thread sleeps when there is nothing to beat.
  private static let idlePause: Duration = .seconds(3600)
  /// How often at most the log says that the kernel has no descriptor or memory left.
  private static let exhaustionNotice: Duration = .seconds(10)
  /// How long accepting pauses when the kernel has no descriptor or memory left.
  private static let exhaustionPause: Duration = .milliseconds(200)

  /// How often it looks for connections whose request is late.
  private static let lateHeadInterval: Duration = .milliseconds(500)

  private let service: RequestService
  private let state = Lock(State())
  /// The kinds of listeners whose accepting waits for a connection to close.
  private let paused = Lock<Set<Connections.Kind>>([])

  init(service: RequestService) {
    self.service = service
  }

  // MARK: On any thread

  /// Starts the thread, which ends after `stop`.
  func start() throws(ServerSetupError) {
    var thread = pthread_t()
    let context = Unmanaged.passRetained(self)
    let code = pthread_create(&thread, nil, runServerThread, context.toOpaque())
    guard code == 0 else {
      context.release()
      throw ServerSetupError(call: "pthread_create", code: code)
    }
    pthread_detach(thread)
  }

  /// Takes over a listening socket and the daemon for its connections. False: the server is stopping.
  func add(_ socket: ListeningSocket, _ daemon: MicrohttpdDaemon) -> Bool {
    state.withLock { state in
      guard state.stopAt == nil else { return false }
      state.listeners[state.nextNumber] = Listener(socket: socket, daemon: daemon)
      service.watch.addListener(socket.descriptor, number: state.nextNumber)
      state.nextNumber += 1
      return true
    }
  }

  /// Asks for the end; an earlier request is brought forward, never put off.
  func requestStop(grace: Duration) {
    state.withLock { state in
      let wanted = ContinuousClock.now + grace
      state.stopAt = min(state.stopAt ?? wanted, wanted)
    }
    service.watch.wake()
  }

  /// Returns when everything is stopped.
  func stopped() async {
    await withCheckedContinuation { waiter in
      let isStopped = state.withLock { state in
        if !state.isStopped { state.waiters.append(waiter) }
        return state.isStopped
      }
      if isStopped { waiter.resume() }
    }
  }

  // MARK: On the thread

  fileprivate func run() {
    var heartbeats = Heartbeats(interval: service.options.heartbeat, turns: Self.heartbeatTurns)
    while state.withLock({ $0.stopAt == nil }) {
      let now = ContinuousClock.now
      if let turn = heartbeats.due(now) {
        service.liveRequests.streams(turn: turn, of: Self.heartbeatTurns).forEach { $0.beat() }
      }
      var deadline = service.liveRequests.streamCount > 0 ? heartbeats.next : now + Self.idlePause
      if service.connections.awaitsHeads {
        service.connections.endLate(at: now)
        deadline = min(deadline, now + Self.lateHeadInterval)
      }
      turn(until: deadline)
    }
    stop()
  }

  /// Waits for events, handles them, and comes back at `deadline` at the latest.
  private func turn(until deadline: ContinuousClock.Instant) {
    let now = ContinuousClock.now
    var pause = deadline - now
    var isResuming = false
    if paused.withLock({ !$0.isEmpty }) {
      // A wake may have been missed: look again soon.
      pause = min(pause, Self.exhaustionPause)
      isResuming = true
    }
    for event in service.watch.wait(milliseconds: Self.milliseconds(pause)) {
      switch event {
      case .wake: break
      case .listener(let number): accept(number)
      case .clientLeft(let number): service.liveRequests.exchange(number)?.clientLeft()
      }
    }
    if isResuming { resumeAccepting() }
  }

  private static func milliseconds(_ duration: Duration) -> Int32 {
    let (seconds, attoseconds) = duration.components
    guard seconds >= 0, attoseconds >= 0 else { return 0 }
    return Int32(clamping: min(seconds, 3600) * 1000 + (attoseconds + 999_999_999_999_999) / 1_000_000_000_000_000)
  }

  private func accept(_ number: UInt64) {
    guard let listener = state.withLock({ $0.listeners[number] }) else { return }
    let kind = listener.socket.kind
    for _ in 0..<Self.acceptBatch {
      guard !service.connections.isFull(kind) else { return pauseAccepting([kind]) }
      var address = sockaddr_storage()
      var size = socklen_t(MemoryLayout<sockaddr_storage>.size)
      let accepted = withUnsafeMutablePointer(to: &address) { address in
        address.withMemoryRebound(to: sockaddr.self, capacity: 1) {
          FileDescriptor(result: cmhd_accept(listener.socket.descriptor, $0, &size))
        }
      }
      if let accepted {
        serve(accepted, kind, address, size, listener.daemon)
      } else if errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS {
        noteExhaustion(errno)
        return pauseAccepting(Connections.Kind.allCases)
      } else if errno != EINTR && errno != ECONNABORTED {
        return
      }
    }
  }

  private func noteExhaustion(_ code: Int32) {
    let now = ContinuousClock.now
    let isNew = state.withLock { state in
      if let last = state.exhaustedAt, now - last < Self.exhaustionNotice { return false }
      state.exhaustedAt = now
      return true
    }
    guard isNew else { return }
    service.logger.warning(
      "can't accept connections: \(String(cString: strerror(code))); raise the limit of open files or lower the load")
  }

  /// A connection beyond its address's share is closed at once: in the backlog it would stand before others.
  private func serve(
    _ accepted: FileDescriptor, _ kind: Connections.Kind, _ address: sockaddr_storage, _ size: socklen_t,
    _ daemon: MicrohttpdDaemon
  ) {
    let client = kind == .tcp ? Connections.address(address) : nil
    guard service.connections.enter(accepted.rawValue, kind, from: client) else { return }
    let descriptor = accepted.release()
    let isAdded = withUnsafePointer(to: address) { address in
      address.withMemoryRebound(to: sockaddr.self, capacity: 1) { daemon.add(descriptor, $0, size) }
    }
    if !isAdded { service.connections.leave(descriptor) }
  }

  private func pauseAccepting(_ kinds: [Connections.Kind]) {
    paused.withLock { $0.formUnion(kinds) }
    for (_, listener) in state.withLock({ $0.listeners }) where kinds.contains(listener.socket.kind) {
      service.watch.remove(listener.socket.descriptor)
    }
  }

  private func resumeAccepting() {
    for kind in paused.withLock({ $0 }) where !service.connections.isFull(kind) {
      _ = paused.withLock { $0.remove(kind) }
      for (number, listener) in state.withLock({ $0.listeners }) where listener.socket.kind == kind {
        service.watch.addListener(listener.socket.descriptor, number: number)
      }
    }
  }

  // MARK: The end

  private func stop() {
    let listeners = state.withLock { state in
      defer { state.listeners = [:] }
      return state.listeners
    }
    // Closing takes the sockets out of the watch.
    listeners.values.forEach { $0.socket.close() }
    service.liveRequests.stop().forEach { $0.end() }
    drain(until: { [self] in state.withLock { $0.stopAt } ?? .now })

    let late = service.liveRequests.closeDown()
    let responder = service.responder
    late.forEach { $0.expire { responder.response(to: .stopping, for: $0) } }
    let flushed = ContinuousClock.now + service.options.flushTime
    drain(until: { flushed })

    listeners.values.forEach { $0.daemon.stop() }
    let waiters = state.withLock { state in
      state.isStopped = true
      defer { state.waiters = [] }
      return state.waiters
    }
    waiters.forEach { $0.resume() }
  }

  /// Handles events until no request is in flight.
  private func drain(until deadline: () -> ContinuousClock.Instant) {
    while service.liveRequests.requestCount > 0, ContinuousClock.now < deadline() {
      turn(until: deadline())
    }
  }
}

/// When the groups of event streams beat.
private struct Heartbeats {
  private let pause: Duration
  private let turns: UInt64
  private var turn: UInt64 = 0
  private(set) var next: ContinuousClock.Instant

  init(interval: Duration, turns: UInt64) {
    self.turns = turns
    pause = max(interval / Int(turns), .milliseconds(1))
    next = .now + pause
  }

  /// The group whose turn it is, if it is time.
  mutating func due(_ now: ContinuousClock.Instant) -> UInt64? {
    guard now >= next else { return nil }
    next = now + pause
    turn = (turn + 1) % turns
    return turn
  }
}

private func runServerThread(_ context: UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? {
  if let context { Unmanaged<ServerThread>.fromOpaque(context).takeRetainedValue().run() }
  return nil
}
