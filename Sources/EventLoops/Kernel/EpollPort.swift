import CLiburing
import Descriptors
import Glibc

/// The loop's way to the kernel where io_uring is not permitted: sockets by epoll, files on the pool for blocking
/// calls.
///
/// A socket operation is tried first and waits only if it would block. Its descriptor is armed for one event
/// (EPOLLONESHOT), so a socket that moved to another loop leaves nothing behind here.
final class EpollPort: LoopPort {
  /// Events taken in one turn.
  private static let eventCapacity = 128

  private struct Waiter {
    let operation: SocketOperation
    let wait: WaitToken
  }

  private unowned let loop: EventLoop
  private let blockingCalls: BlockingCalls
  private let wakeDescriptor: Int32
  private let poll: FileDescriptor
  private let events = UnsafeMutablePointer<epoll_event>.allocate(capacity: eventCapacity)
  private var waiters: [Int32: [Waiter]] = [:]
  private var descriptorOf: [WaitToken: Int32] = [:]

  init(loop: EventLoop, wakeDescriptor: Int32, blockingCalls: BlockingCalls) throws(SystemError) {
    self.loop = loop
    self.blockingCalls = blockingCalls
    self.wakeDescriptor = wakeDescriptor
    guard let poll = FileDescriptor(result: epoll_create1(Int32(EPOLL_CLOEXEC))) else { throw .last }
    self.poll = poll
    var event = epoll_event(events: EPOLLIN.rawValue, data: epoll_data_t(fd: wakeDescriptor))
    guard epoll_ctl(poll.rawValue, EPOLL_CTL_ADD, wakeDescriptor, &event) == 0 else { throw .last }
  }

  deinit { events.deallocate() }

  func start(_ operation: FileOperation, in lane: BlockingLane, _ completion: Completion) {
    blockingCalls.submit(in: lane) { [loop] in loop.post(.complete(completion, operation.perform())) }
  }

  func start(_ operation: SocketOperation, _ wait: WaitToken) {
    let result = operation.attempt(isFirst: true)
    guard result == -EAGAIN else { return loop.finish(wait, result) }
    let file = operation.descriptor
    waiters[file, default: []].append(Waiter(operation: operation, wait: wait))
    descriptorOf[wait] = file
    arm(file)
  }

  func cancel(_ wait: WaitToken) {
    guard let file = descriptorOf.removeValue(forKey: wait) else { return }
    waiters[file]?.removeAll { $0.wait == wait }
    // An event that still comes finds no wait, and isn't armed again.
    if waiters[file]?.isEmpty == true { waiters[file] = nil }
    loop.finish(wait, -ECANCELED)
  }

  // Only a system call could tell.
  var canPoll: Bool { false }
  var hasNews: Bool { false }

  func submit() {}

  func turn(_ wait: TurnWait) {
    let count = epoll_wait(poll.rawValue, events, Int32(Self.eventCapacity), Self.milliseconds(wait))
    // EINTR is the only failure there can be: the next turn waits again.
    for index in 0..<Int(max(0, count)) {
      let file = events[index].data.fd
      if file == wakeDescriptor { takeWakeUp() } else { proceed(file) }
    }
  }

  private static func milliseconds(_ wait: TurnWait) -> Int32 {
    switch wait {
    case .none: 0
    case .forever: -1
    // Rounded up: a turn that comes early would only spin.
    case .until(let deadline): Int32(clamping: (deadline.nanoseconds(since: .now) &+ 999_999) / 1_000_000)
    }
  }

  private func takeWakeUp() {
    var count: eventfd_t = 0
    _ = eventfd_read(wakeDescriptor, &count)
    loop.readInbox()
  }

  /// Something happened to `file`: tries again whatever waits for it.
  private func proceed(_ file: Int32) {
    guard let ready = waiters.removeValue(forKey: file) else { return }
    var remaining: [Waiter] = []
    for waiter in ready {
      let result = waiter.operation.attempt(isFirst: false)
      if result == -EAGAIN {
        remaining.append(waiter)
      } else {
        descriptorOf[waiter.wait] = nil
        loop.finish(waiter.wait, result)
      }
    }
    guard !remaining.isEmpty else { return }
    waiters[file] = remaining
    arm(file)
  }

  /// Asks for one event of the kinds that the waiters of `file` need.
  private func arm(_ file: Int32) {
    var interest = EPOLLONESHOT.rawValue
    for waiter in waiters[file] ?? [] { interest |= waiter.operation.readiness }
    var event = epoll_event(events: interest, data: epoll_data_t(fd: file))
    if epoll_ctl(poll.rawValue, EPOLL_CTL_MOD, file, &event) == 0 { return }
    if errno == ENOENT, epoll_ctl(poll.rawValue, EPOLL_CTL_ADD, file, &event) == 0 { return }
    let code = errno
    for waiter in waiters.removeValue(forKey: file) ?? [] {
      descriptorOf[waiter.wait] = nil
      loop.finish(waiter.wait, -code)
    }
  }

  func close() { poll.close() }
}

extension SocketOperation {
  fileprivate var descriptor: Int32 {
    switch self {
    case .accept(let socket), .connect(let socket, _, _), .receive(let socket, _, _, _), .send(let socket, _, _),
      .sendMessage(let socket, _), .awaitRoom(let socket):
      socket
    }
  }

  fileprivate var readiness: UInt32 {
    switch self {
    case .accept, .receive: EPOLLIN.rawValue | EPOLLRDHUP.rawValue
    case .connect, .send, .sendMessage, .awaitRoom: EPOLLOUT.rawValue
    }
  }

  /// Tries it without blocking: the result, −EAGAIN if it must wait, or another negative errno.
  fileprivate func attempt(isFirst: Bool) -> Int32 {
    while true {
      let result = call(isFirst: isFirst)
      if result >= 0 { return Int32(clamping: result) }
      switch errno {
      case EINTR where !isConnect: continue
      case EINPROGRESS, EALREADY, EINTR: return -EAGAIN
      // A unix socket whose listener is full can't be waited for: the caller tries again later.
      case EAGAIN where isConnect: return -EBUSY
      case EISCONN where isConnect && !isFirst: return 0
      default: return -errno
      }
    }
  }

  private var isConnect: Bool {
    if case .connect = self { true } else { false }
  }

  private func call(isFirst: Bool) -> Int {
    let sendFlags = Int32(MSG_NOSIGNAL | MSG_DONTWAIT)
    switch self {
    case .accept(let socket):
      return Int(accept4(socket, nil, nil, Int32(SOCK_CLOEXEC.rawValue)))
    case .connect(let socket, let address, let length):
      return Int(isFirst ? Glibc.connect(socket, address, length) : connectResult(socket))
    case .receive(let socket, let target, let count, _):
      return Glibc.recv(socket, target, count, Int32(MSG_DONTWAIT))
    case .send(let socket, let source, let count): return Glibc.send(socket, source, count, sendFlags)
    case .sendMessage(let socket, let message): return sendmsg(socket, message, sendFlags)
    case .awaitRoom:
      errno = EAGAIN
      return isFirst ? -1 : 0
    }
  }

  /// How a connection attempt ended, in the way of a system call.
  private func connectResult(_ socket: Int32) -> Int32 {
    var code: Int32 = 0
    var length = socklen_t(MemoryLayout<Int32>.size)
    guard getsockopt(socket, SOL_SOCKET, SO_ERROR, &code, &length) == 0 else { return -1 }
    errno = code
    return code == 0 ? 0 : -1
  }
}
