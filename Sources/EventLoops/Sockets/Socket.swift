import CLiburing
import Descriptors
import Glibc

/// A stream socket (unix or TCP) on its loop.
///
/// Confined to that loop; ``move(to:)`` takes it to another while nothing is in flight. One task receives and one
/// sends at a time (`sendAll` traps on a second one: their bytes would mix); several may accept. A cancelled task's
/// wait ends promptly with ECANCELED; what a cancelled `sendAll` has sent by then is not known, so the stream is
/// only good for closing. A dropped socket is closed.
package final class Socket: @unchecked Sendable {
  // Safe to hand over: confined to `loop`.

  /// Longest wait between two tries to connect to a unix socket whose listener is full.
  private static let longestConnectPause = Duration.milliseconds(16)
  /// What a unix socket's kernel side may hold of what was sent (the kernel doubles it, and caps it by
  /// net.core.wmem_max): the default makes a sender of long messages sleep at every 200 KiB.
  private static let sendBufferByteCount: Int32 = 512 << 10
  /// Receives in a row that didn't pass through the loop.
  private static let immediateLimit = 16

  package private(set) var loop: EventLoop
  let file: FileDescriptor
  private var waits: [WaitToken] = []
  private(set) var isClosed = false
  private(set) var isSending = false
  private var immediateCount = 0

  /// Takes over `file`, an open stream socket.
  package init(adopting file: FileDescriptor, on loop: EventLoop) throws(SystemError) {
    self.file = file
    self.loop = loop
    // The ring waits by itself, and only on sockets that may block; with epoll we wait, and nothing may block.
    let flags = fcntl(file.rawValue, F_GETFL)
    let wanted = loop.backend == .epoll ? flags | O_NONBLOCK : flags & ~O_NONBLOCK
    guard flags >= 0, fcntl(file.rawValue, F_SETFL, wanted) == 0 else { throw .last }
  }

  private static func open(_ address: SocketAddress, on loop: EventLoop) throws(SystemError) -> Socket {
    let type = Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue)
    guard let file = FileDescriptor(result: socket(address.family, type, 0)) else { throw .last }
    let socket = try Socket(adopting: file, on: loop)
    socket.setNoDelay()
    return socket
  }

  // MARK: Coming up

  /// Listens at `address`. A unix socket's file must not exist yet; removing it afterwards is the caller's.
  /// - Parameters:
  ///   - backlog: connections that may wait to be accepted.
  ///   - fileMode: mode bits of a unix socket's file, in place before a client can connect; nil leaves the umask's.
  ///   - fileGroup: the group of that file; nil leaves the process's.
  package static func listen(
    at address: SocketAddress, backlog: Int32 = 128, fileMode: UInt32? = nil, fileGroup: UInt32? = nil,
    on loop: EventLoop
  ) throws(SystemError) -> Socket {
    let socket = try open(address, on: loop)
    let descriptor = socket.file.rawValue
    if case .ip = address { socket.setOption(SOL_SOCKET, SO_REUSEADDR, 1) }
    let kernelAddress = try address.kernelAddress()
    defer { kernelAddress.deallocate() }
    guard bind(descriptor, kernelAddress.pointer, kernelAddress.length) == 0 else {
      throw SystemError(errno, address.description)
    }
    if case .unix(let path) = address {
      // Until `listen` the kernel refuses every client, so none slips in under other rights.
      if let fileGroup, chown(path, uid_t.max, fileGroup) != 0 { throw abandon(path) }
      if let fileMode, chmod(path, fileMode) != 0 { throw abandon(path) }
    }
    guard Glibc.listen(descriptor, backlog) == 0 else {
      if case .unix(let path) = address { throw abandon(path) }
      throw .last
    }
    return socket
  }

  private static func abandon(_ path: String) -> SystemError {
    let error = SystemError(errno, path)
    unlink(path)
    return error
  }

  /// True if a server listens on the unix socket at `path`, or nothing shows that none does.
  /// Doesn't wait.
  package static func isAnswered(unixPath path: String) throws(SystemError) -> Bool {
    let address = try SocketAddress.unix(path: path).kernelAddress()
    defer { address.deallocate() }
    let type = Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue | SOCK_NONBLOCK.rawValue)
    guard let probe = FileDescriptor(result: socket(AF_UNIX, type, 0)) else { throw .last }
    return Glibc.connect(probe.rawValue, address.pointer, address.length) == 0 || errno != ECONNREFUSED
  }

  /// The port that the socket is bound to, 0 for a unix socket.
  package func localPort() throws(SystemError) -> UInt16 {
    let address = KernelAddress()
    defer { address.deallocate() }
    var length = address.length
    guard getsockname(file.rawValue, address.mutablePointer, &length) == 0 else {
      throw .last
    }
    return address.port
  }

  /// Waits for the next connection; it has the same loop.
  package func accept() async throws(SystemError) -> Socket {
    while true {
      do throws(SystemError) {
        let descriptor = try await perform(.accept(file.rawValue))
        let accepted = try Socket(adopting: FileDescriptor(adopting: Int32(descriptor)), on: loop)
        accepted.setNoDelay()
        accepted.widenSendBuffer()
        return accepted
      } catch {
        // The peer gave up before we came to it: the next one, please.
        if error.code != ECONNABORTED { throw error }
      }
    }
  }

  /// Connects to `address`, waiting while the listener is full.
  package static func connect(to address: SocketAddress, on loop: EventLoop) async throws(SystemError) -> Socket {
    let kernelAddress = try address.kernelAddress()
    defer { kernelAddress.deallocate() }
    var pause = Duration.milliseconds(1)
    let socket = try open(address, on: loop)
    while true {
      do throws(SystemError) {
        _ = try await socket.perform(
          .connect(socket.file.rawValue, kernelAddress.pointer, kernelAddress.length))
        return socket
      } catch {
        guard error.code == EAGAIN || error.code == EBUSY else { throw error }
        try await loop.sleep(for: pause)
        pause = min(pause * 2, longestConnectPause)
      }
    }
  }

  // MARK: Bytes

  /// Waits for bytes and takes what is there.
  /// - Returns: the count; 0 when the peer has ended its side (or `buffer` is empty).
  package func receive(into buffer: inout MutableRawSpan) async throws(SystemError) -> Int {
    let count = min(buffer.byteCount, FileOperation.maximumTransferByteCount)
    guard count > 0, let base = buffer.withUnsafeMutableBytes({ $0.baseAddress }) else { return 0 }
    // A peer whose bytes are always there already must not keep the loop for itself.
    let isPatient = immediateCount < Self.immediateLimit
    if isPatient, let received = try tryReceive(count, into: base) {
      immediateCount += 1
      return received
    }
    immediateCount = 0
    return try await perform(.receive(file.rawValue, into: base, count: count, isEmpty: isPatient))
  }

  /// Sends all of `bytes`, waiting while the peer doesn't take them.
  package func sendAll(_ bytes: RawSpan) async throws(SystemError) {
    guard bytes.byteCount > 0, let base = bytes.withUnsafeBytes({ $0.baseAddress }) else { return }
    beginSending()
    defer { endSending() }
    var done = 0
    while done < bytes.byteCount {
      let count = min(bytes.byteCount - done, FileOperation.maximumTransferByteCount)
      done += try await perform(.send(file.rawValue, from: base + done, count: count))
    }
  }

  /// Sends `header`, then `payload`, in one go where the socket takes it.
  package func sendAll(_ header: RawSpan, _ payload: RawSpan) async throws(SystemError) {
    let message = GatheredMessage(capacity: 2)
    defer { message.deallocate() }
    message.append(header)
    message.append(payload)
    try await sendAll(message)
  }

  /// Sends these pieces of `bytes`, in this order, in as few calls as the socket takes: a batch of replies built in
  /// one buffer with gaps between them.
  package func sendAll(_ bytes: RawSpan, pieces: [Range<Int>]) async throws(SystemError) {
    let message = GatheredMessage(capacity: pieces.count)
    defer { message.deallocate() }
    for piece in pieces { message.append(bytes.extracting(piece)) }
    try await sendAll(message)
  }

  private func sendAll(_ message: GatheredMessage) async throws(SystemError) {
    beginSending()
    defer { endSending() }
    while let header = message.next() {
      message.advance(try await perform(.sendMessage(file.rawValue, header)))
    }
  }

  func beginSending() {
    loop.checkIsolated()
    precondition(!isSending, "two tasks send on one socket")
    isSending = true
  }

  func endSending() { isSending = false }

  // MARK: The peer

  /// Has the kernel ask a silent TCP peer whether it is still there, so that one that has vanished without a word ends
  /// the connection: after `idle` without any traffic, then each `interval`, `count` times. Nothing for unix sockets,
  /// whose peers can't vanish.
  /// - Parameters:
  ///   - idle: whole seconds, like `interval`; at least one.
  package func keepAlive(idle: Duration, interval: Duration, count: Int = 4) {
    setOption(SOL_SOCKET, SO_KEEPALIVE, 1)
    setOption(Int32(IPPROTO_TCP), TCP_KEEPIDLE, Int32(clamping: max(1, idle.components.seconds)))
    setOption(Int32(IPPROTO_TCP), TCP_KEEPINTVL, Int32(clamping: max(1, interval.components.seconds)))
    setOption(Int32(IPPROTO_TCP), TCP_KEEPCNT, Int32(clamping: count))
  }

  /// Ends the connection with ETIMEDOUT when the TCP peer takes none of what was sent for so long, be it gone or stuck;
  /// the same limit then holds for a silent peer in place of ``keepAlive(idle:interval:count:)``'s count.
  /// - Parameter limit: in whole seconds.
  package func endsUnacknowledged(after limit: Duration) {
    setOption(Int32(IPPROTO_TCP), TCP_USER_TIMEOUT, Int32(clamping: limit.components.seconds * 1000))
  }

  /// Who is at the other end, as far as the kernel knows: address and port, or the process behind a unix socket.
  package var peerDescription: String? {
    let address = KernelAddress()
    defer { address.deallocate() }
    var length = address.length
    guard getpeername(file.rawValue, address.mutablePointer, &length) == 0 else { return nil }
    return address.ipDescription ?? peerProcessDescription
  }

  private var peerProcessDescription: String? {
    // The kernel's `struct ucred`.
    var peer: (pid: pid_t, uid: uid_t, gid: gid_t) = (0, 0, 0)
    var length = socklen_t(MemoryLayout.size(ofValue: peer))
    guard getsockopt(file.rawValue, SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0 else { return nil }
    return "process \(peer.pid) of user \(peer.uid)"
  }

  // MARK: Going down

  package enum Side: Sendable { case reading, writing, both }

  /// Ends one side, or both, of the stream: the peer sees the end after what was sent.
  package func shutdown(_ side: Side) throws(SystemError) {
    let how =
      switch side {
      case .reading: SHUT_RD
      case .writing: SHUT_WR
      case .both: SHUT_RDWR
      }
    guard Glibc.shutdown(file.rawValue, Int32(how)) == 0 else { throw .last }
  }

  /// Closes the socket; waits in flight end with ECANCELED, later calls with EBADF. Idempotent.
  package func close() {
    loop.checkIsolated()
    guard !isClosed else { return }
    isClosed = true
    for wait in waits { loop.cancelNow(wait) }
    // A wait resumes later; the number must not be given to another file before.
    if waits.isEmpty { file.close() }
  }

  /// Gives the socket to another loop of the same group. Nothing may be in flight; from now on only that loop uses it.
  package func move(to other: EventLoop) {
    loop.checkIsolated()
    precondition(waits.isEmpty, "a socket moves while a task waits for it")
    precondition(other.backend == loop.backend, "a socket moves between groups")
    loop = other
  }

  // MARK: Waiting

  /// The count or descriptor that the operation answers.
  func perform(_ operation: SocketOperation) async throws(SystemError) -> Int {
    loop.checkIsolated()
    while true {
      guard let port = loop.port else { throw .shutDown }
      guard !isClosed else { throw SystemError(EBADF, "the socket is closed") }
      let token = loop.reserveWait(.socket)
      waits.append(token)
      let result = await loop.wait(token) { port.start(operation, $0) }
      waits.removeAll { $0 == token }
      if isClosed, waits.isEmpty { file.close() }
      if result >= 0 { return Int(result) }
      if result != -EINTR { throw SystemError(-result) }
      if Task.isCancelled { throw .cancelled }
    }
  }

  private func setOption(_ level: Int32, _ name: Int32, _ value: Int32) {
    var value = value
    _ = setsockopt(file.rawValue, level, name, &value, socklen_t(MemoryLayout<Int32>.size))
  }

  /// TCP finds the right size by itself.
  private func widenSendBuffer() {
    var domain: Int32 = 0
    var length = socklen_t(MemoryLayout<Int32>.size)
    guard getsockopt(file.rawValue, SOL_SOCKET, SO_DOMAIN, &domain, &length) == 0, domain == AF_UNIX else { return }
    setOption(SOL_SOCKET, SO_SNDBUF, Self.sendBufferByteCount)
  }

  /// Replies leave at once; fails harmlessly for unix sockets.
  private func setNoDelay() { setOption(Int32(IPPROTO_TCP), TCP_NODELAY, 1) }
}
