import CLiburing
import Glibc

/// File work that runs to its end once started.
enum FileOperation: @unchecked Sendable {
  // Safe to hand to a worker: the caller keeps the memory alive, and untouched, until its completion.
  case read(Int32, into: UnsafeMutableRawPointer, count: Int, offset: UInt64)
  case write(Int32, from: UnsafeRawPointer, count: Int, offset: UInt64, durable: Bool)
  case sync(Int32, dataOnly: Bool)
  case allocate(Int32, mode: Int32, offset: UInt64, length: UInt64)
  case splice(Int32, offset: UInt64, toPipe: Int32, count: Int)

  /// The largest transfer in one system call; longer ones are continued.
  static let maximumTransferByteCount = 1 << 30

  /// Does it here and now, blocking: the result, or a negative errno.
  func perform() -> Int32 {
    while true {
      let result = attempt()
      if result >= 0 { return Int32(clamping: result) }
      if errno != EINTR { return -errno }
    }
  }

  private func attempt() -> Int {
    switch self {
    case .read(let file, let target, let count, let offset):
      return pread(file, target, min(count, Self.maximumTransferByteCount), off_t(offset))
    case .write(let file, let source, let count, let offset, let durable):
      let count = min(count, Self.maximumTransferByteCount)
      guard durable else { return pwrite(file, source, count, off_t(offset)) }
      var part = iovec(iov_base: UnsafeMutableRawPointer(mutating: source), iov_len: count)
      return shim_pwritev2(file, &part, 1, off_t(offset), durableWriteFlag)
    case .sync(let file, let dataOnly):
      return Int(dataOnly ? fdatasync(file) : fsync(file))
    case .allocate(let file, let mode, let offset, let length):
      return Int(fallocate(file, mode, off_t(offset), off_t(length)))
    case .splice(let file, let offset, let pipe, let count):
      return shim_splice_to_pipe(file, off_t(offset), pipe, min(count, Self.maximumTransferByteCount))
    }
  }
}

/// RWF_DSYNC: this one write as if the file had been opened with O_DSYNC.
let durableWriteFlag: Int32 = 2

/// Socket work: may wait without end, and can be cancelled.
enum SocketOperation {
  case accept(Int32)
  case connect(Int32, UnsafePointer<sockaddr>, socklen_t)
  /// `isEmpty`: it was found so just now, and needn't be tried again before waiting.
  case receive(Int32, into: UnsafeMutableRawPointer, count: Int, isEmpty: Bool)
  case send(Int32, from: UnsafeRawPointer, count: Int)
  case sendMessage(Int32, UnsafeMutablePointer<msghdr>)
  /// Ends with 0, or more, once the socket takes bytes again.
  case awaitRoom(Int32)
}

/// How long a turn of the loop may wait for something to happen.
enum TurnWait {
  case none
  case until(MonotonicTime)
  case forever
}

/// What a loop asks of the kernel. Confined to the loop's thread.
protocol LoopPort: AnyObject {
  /// Starts file work. `completion` gets the byte count (0 for sync and allocate) or a negative errno; it is called
  /// for certain, and not before `start` was entered. `lane`: what the file may hang with.
  func start(_ operation: FileOperation, in lane: BlockingLane, _ completion: Completion)

  /// Starts socket work; the loop's `finish` is told the result, a byte count or descriptor, or a negative errno.
  func start(_ operation: SocketOperation, _ wait: WaitToken)

  /// Asks for an early end of a wait with ECANCELED; it may still succeed. Its `finish` comes in either case.
  func cancel(_ wait: WaitToken)

  /// Whether ``hasNews`` tells of what happens, so that the loop may poll instead of sleeping.
  var canPoll: Bool { get }

  /// Something was done that ``turn(_:)`` would deliver. Costs no system call.
  var hasNews: Bool { get }

  /// Hands to the kernel what was started.
  func submit()

  /// Hands to the kernel what was started, waits as told, and delivers what is done.
  func turn(_ wait: TurnWait)

  /// Gives the kernel's objects back. Nothing is in flight.
  func close()
}
