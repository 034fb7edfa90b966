import CLiburing
import Glibc

/// The loop's way to the kernel over one io_uring, which only the loop's thread touches.
///
/// `user_data` holds a file operation's continuation itself (a pointer, its low bits free for the kind), or a wait's
/// token. What finds the submission queue full waits in `backlog`, which is bounded by the tasks, as each waits for
/// its operation.
final class RingPort: LoopPort {
  /// Entries of the submission queue; the completion queue has four times as many, and the kernel keeps the overflow.
  private static let queueDepth: UInt32 = 512

  /// Entries that go to the kernel together, and completions that the loop takes before it answers. Where a window of
  /// requests moved as one, the device, the loop and the client would work one after another, each idle meanwhile;
  /// single ones would cost a system call each.
  private static let batchCount = 8

  // The low three bits of user_data.
  private enum Tag: UInt64 {
    case completion = 0
    case wait = 1
    case wakeUp = 2
    case unheeded = 3
  }
  private static let tagMask: UInt64 = 7

  private unowned let loop: EventLoop
  private let wakeDescriptor: Int32
  private let ring = UnsafeMutablePointer<io_uring>.allocate(capacity: 1)
  /// Where the wake-up counter is read to.
  private let wakeCount = UnsafeMutablePointer<UInt64>.allocate(capacity: 1)
  private var isWakeUpArmed = false
  private var isClosing = false
  private var backlog: [io_uring_sqe] = []
  /// With deferred task run, says whether completions wait to be fetched.
  private let tellsOfTaskWork: Bool
  /// A receive can be told to wait before it is tried (Linux 5.19; deferred task run came later).
  private var knowsPollFirst: Bool { tellsOfTaskWork }

  init(loop: EventLoop, wakeDescriptor: Int32) throws(SystemError) {
    self.loop = loop
    self.wakeDescriptor = wakeDescriptor
    do throws(SystemError) {
      let flags = try Self.setUp(ring, depth: Self.queueDepth)
      tellsOfTaskWork = flags & UInt32(IORING_SETUP_TASKRUN_FLAG) != 0
    } catch {
      ring.deallocate()
      wakeCount.deallocate()
      throw error
    }
    io_uring_register_ring_fd(ring)
    allowWorkers()
    armWakeUp()
  }

  deinit {
    ring.deallocate()
    wakeCount.deallocate()
  }

  // MARK: Set-up

  /// The kernel's workers for files, at most: as many as the processors by default, all of which the requests of one
  /// job can take, and keep, where its storage hangs.
  private static let workerCount: UInt32 = 256

  /// Linux before 5.15 doesn't know this, and keeps to its own number.
  private func allowWorkers() {
    // For files and for sockets; 0 leaves that number as it is.
    var counts: [UInt32] = [Self.workerCount, 0]
    _ = counts.withUnsafeMutableBufferPointer { io_uring_register_iowq_max_workers(ring, $0.baseAddress) }
  }

  /// Sets up a ring with the best flags that the kernel takes, and returns them.
  private static func setUp(_ ring: UnsafeMutablePointer<io_uring>, depth: UInt32) throws(SystemError) -> UInt32 {
    let completions = UInt32(IORING_SETUP_CQSIZE) | UInt32(IORING_SETUP_CLAMP)
    let deferred =
      UInt32(IORING_SETUP_SINGLE_ISSUER) | UInt32(IORING_SETUP_DEFER_TASKRUN) | UInt32(IORING_SETUP_COOP_TASKRUN)
      | UInt32(IORING_SETUP_TASKRUN_FLAG)
    var result: Int32 = 0
    for flags in [deferred, UInt32(IORING_SETUP_COOP_TASKRUN), 0] {
      var parameters = io_uring_params()
      parameters.flags = flags | completions
      parameters.cq_entries = depth * 4
      result = io_uring_queue_init_params(depth, ring, &parameters)
      if result == 0 {
        let needed = UInt32(IORING_FEAT_NODROP) | UInt32(IORING_FEAT_EXT_ARG)
        if parameters.features & needed == needed { return flags }
        io_uring_queue_exit(ring)
        throw SystemError(EOPNOTSUPP, "waits with a deadline (Linux 5.11)")
      }
      // Only an unknown flag is worth another try.
      if result != -EINVAL { break }
    }
    throw SystemError(-result)
  }

  /// Finds out whether a ring can be had here and does all that is asked of it.
  static func probe() throws(SystemError) {
    var ring = io_uring()
    _ = try setUp(&ring, depth: 4)
    defer { io_uring_queue_exit(&ring) }
    guard let probe = io_uring_get_probe_ring(&ring) else {
      throw SystemError(EOPNOTSUPP, "the question what it can do")
    }
    defer { io_uring_free_probe(probe) }
    let operations = [
      ("read", IORING_OP_READ), ("write", IORING_OP_WRITE), ("fsync", IORING_OP_FSYNC),
      ("fallocate", IORING_OP_FALLOCATE), ("accept", IORING_OP_ACCEPT), ("connect", IORING_OP_CONNECT),
      ("recv", IORING_OP_RECV), ("send", IORING_OP_SEND), ("sendmsg", IORING_OP_SENDMSG),
      ("cancel", IORING_OP_ASYNC_CANCEL), ("splice", IORING_OP_SPLICE), ("poll", IORING_OP_POLL_ADD),
    ]
    for (name, operation) in operations where io_uring_opcode_supported(probe, Int32(operation.rawValue)) == 0 {
      throw SystemError(EOPNOTSUPP, "the operation \(name)")
    }
  }

  // MARK: Starting

  func start(_ operation: FileOperation, in lane: BlockingLane, _ completion: Completion) {
    let pointer = UInt64(UInt(bitPattern: unsafeBitCast(completion, to: UnsafeRawPointer.self)))
    submit(pointer) { entry in
      let limit = FileOperation.maximumTransferByteCount
      switch operation {
      case .read(let file, let target, let count, let offset):
        io_uring_prep_read(entry, file, target, UInt32(min(count, limit)), offset)
      case .write(let file, let source, let count, let offset, let durable):
        io_uring_prep_write(entry, file, source, UInt32(min(count, limit)), offset)
        if durable { entry.pointee.rw_flags = durableWriteFlag }
      case .sync(let file, let dataOnly):
        io_uring_prep_fsync(entry, file, dataOnly ? UInt32(IORING_FSYNC_DATASYNC) : 0)
      case .allocate(let file, let mode, let offset, let length):
        io_uring_prep_fallocate(entry, file, mode, off_t(offset), off_t(length))
      case .splice(let file, let offset, let pipe, let count):
        io_uring_prep_splice(
          entry, file, Int64(offset), pipe, -1, UInt32(min(count, limit)), UInt32(shim_splice_flags))
      }
    }
    if io_uring_sq_ready(ring) >= Self.batchCount { io_uring_submit(ring) }
  }

  func start(_ operation: SocketOperation, _ wait: WaitToken) {
    submit(Self.userData(wait)) { entry in
      switch operation {
      case .accept(let socket):
        io_uring_prep_accept(entry, socket, nil, nil, Int32(SOCK_CLOEXEC.rawValue))
      case .connect(let socket, let address, let length):
        io_uring_prep_connect(entry, socket, address, length)
      case .receive(let socket, let target, let count, let isEmpty):
        io_uring_prep_recv(entry, socket, target, count, 0)
        if isEmpty, knowsPollFirst { entry.pointee.ioprio |= UInt16(IORING_RECVSEND_POLL_FIRST) }
      case .send(let socket, let source, let count):
        io_uring_prep_send(entry, socket, source, count, sendFlags)
      case .sendMessage(let socket, let message):
        io_uring_prep_sendmsg(entry, socket, message, UInt32(sendFlags))
      case .awaitRoom(let socket): io_uring_prep_poll_add(entry, socket, UInt32(POLLOUT))
      }
    }
  }

  func cancel(_ wait: WaitToken) {
    submit(Tag.unheeded.rawValue) { entry in io_uring_prep_cancel64(entry, Self.userData(wait), 0) }
  }

  private static func userData(_ wait: WaitToken) -> UInt64 {
    // The index keeps clear of the tag: 2^29 waits in one loop are out of reach.
    UInt64(wait.generation) << 32 | UInt64(wait.index) << 3 | Tag.wait.rawValue
  }

  private func submit(_ userData: UInt64, _ prepare: (UnsafeMutablePointer<io_uring_sqe>) -> Void) {
    if backlog.isEmpty, let entry = freeEntry() {
      prepare(entry)
      entry.pointee.user_data = userData
    } else {
      var entry = io_uring_sqe()
      prepare(&entry)
      entry.user_data = userData
      backlog.append(entry)
    }
  }

  private func freeEntry() -> UnsafeMutablePointer<io_uring_sqe>? {
    if let entry = io_uring_get_sqe(ring) { return entry }
    io_uring_submit(ring)
    return io_uring_get_sqe(ring)
  }

  private func submitBacklog() {
    var moved = 0
    while moved < backlog.count, let entry = freeEntry() {
      entry.pointee = backlog[moved]
      moved += 1
    }
    backlog.removeFirst(moved)
  }

  // MARK: Turning

  // Without the flag, completions may wait for the next system call unseen.
  var canPoll: Bool { tellsOfTaskWork }

  var hasNews: Bool {
    io_uring_cq_ready(ring) != 0 || ring.pointee.sq.kflags.pointee & UInt32(IORING_SQ_TASKRUN) != 0
  }

  func submit() {
    if !backlog.isEmpty { submitBacklog() }
    if io_uring_sq_ready(ring) > 0 { io_uring_submit(ring) }
  }

  func turn(_ wait: TurnWait) {
    if !backlog.isEmpty { submitBacklog() }
    let result = enter(wait)
    // Out of kernel memory: what was started stays queued for the next turn; leave the kernel room to breathe.
    if result == -EAGAIN, io_uring_cq_ready(ring) == 0 { usleep(1000) }
    reap()
  }

  private func enter(_ wait: TurnWait) -> Int32 {
    guard io_uring_cq_ready(ring) == 0 else { return flush() }
    switch wait {
    case .none: return flush()
    case .forever: return io_uring_submit_and_wait(ring, 1)
    case .until(let deadline): return self.wait(nanoseconds: deadline.nanoseconds(since: .now))
    }
  }

  /// Submits, and waits for a completion, or so long.
  private func wait(nanoseconds: UInt64) -> Int32 {
    var time = __kernel_timespec(
      tv_sec: Int64(nanoseconds / 1_000_000_000), tv_nsec: Int64(nanoseconds % 1_000_000_000))
    var first: UnsafeMutablePointer<io_uring_cqe>?
    return io_uring_submit_and_wait_timeout(ring, &first, 1, &time, nil)
  }

  /// Submits and fetches completions that the kernel holds back, without waiting; no system call if there is neither.
  private func flush() -> Int32 {
    let flags = ring.pointee.sq.kflags.pointee
    let holdsBack = flags & (UInt32(IORING_SQ_TASKRUN) | UInt32(IORING_SQ_CQ_OVERFLOW)) != 0
    if holdsBack || !tellsOfTaskWork { return io_uring_submit_and_get_events(ring) }
    return io_uring_sq_ready(ring) > 0 ? io_uring_submit_and_get_events(ring) : 0
  }

  /// What is left shows in `hasNews`, and the next turn takes it without a system call.
  private func reap() {
    for _ in 0..<Self.batchCount {
      var entry: UnsafeMutablePointer<io_uring_cqe>?
      guard __io_uring_peek_cqe(ring, &entry, nil) == 0, let entry else { return }
      let userData = entry.pointee.user_data
      let result = entry.pointee.res
      io_uring_cqe_seen(ring, entry)
      deliver(userData, result)
    }
  }

  private func deliver(_ userData: UInt64, _ result: Int32) {
    switch Tag(rawValue: userData & Self.tagMask) {
    case .completion:
      guard let pointer = UnsafeRawPointer(bitPattern: UInt(userData)) else { return }
      unsafeBitCast(pointer, to: Completion.self).resume(returning: result)
    case .wait:
      let index = UInt32(truncatingIfNeeded: userData) >> 3
      loop.finish(WaitToken(index: index, generation: UInt32(userData >> 32)), result)
    case .wakeUp:
      isWakeUpArmed = false
      if !isClosing {
        loop.readInbox()
        armWakeUp()
      }
    case .unheeded, nil: break
    }
  }

  private func armWakeUp() {
    isWakeUpArmed = true
    submit(Tag.wakeUp.rawValue) { entry in io_uring_prep_read(entry, wakeDescriptor, wakeCount, 8, 0) }
  }

  func close() {
    // The kernel writes to `wakeCount` until that read has ended.
    isClosing = true
    eventfd_write(wakeDescriptor, 1)
    while isWakeUpArmed {
      submitBacklog()
      _ = io_uring_submit_and_wait(ring, 1)
      reap()
    }
    io_uring_queue_exit(ring)
  }
}

/// Whole sends where the kernel can, and an error rather than a signal when the other side is gone.
private let sendFlags = Int32(MSG_NOSIGNAL) | Int32(MSG_WAITALL)
