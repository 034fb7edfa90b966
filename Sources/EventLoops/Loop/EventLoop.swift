import CLiburing
import Descriptors
import Glibc
import Locks
import Synchronization

/// One thread that runs jobs and waits for the kernel: the home of images, connections and their tasks.
///
/// It is at once the executor of tasks that prefer it and of actors pinned to it. Get into it with ``run(_:)``.
/// An actor pins itself with
///
///     nonisolated var unownedExecutor: UnownedSerialExecutor { loop.asUnownedSerialExecutor() }
///
/// and keeps its tasks here by being entered through ``run(_:)`` or `Task(executorPreference: loop)`: an actor
/// without that preference resumes through Swift's global pool. Child tasks inherit the preference; a bare `Task {}`
/// or `Task.detached` leaves the loop.
///
/// **Confinement.** I/O methods trap off the loop's thread. They suspend the calling task only, and resume it here.
///
/// **Cancellation.** A cancelled task's timer or socket wait ends promptly with ECANCELED; file I/O runs to its end.
///
/// **After the end** (see ``EventLoopGroup/shutdown(grace:)``) jobs that still come are run, one at a time, on a thread
/// made for them, and their I/O fails with ESHUTDOWN: nothing is dropped.
package final class EventLoop: TaskExecutor, SerialExecutor, @unchecked Sendable {
  // Safe to share: other threads reach only `inbox`, `threadID` and what never changes; the rest is confined to the
  // loop's thread.

  /// Jobs run between two looks at the kernel, so that a task that never waits can't starve I/O.
  private static let jobsPerTurn = 256

  enum Command: Sendable {
    case cancel(WaitToken)
    /// A file operation that a worker did for this loop is done.
    case complete(Completion, Int32)
    /// From now on waits end with ECANCELED.
    case refuseWaits
    /// End as soon as nothing is left to do.
    case drain
  }

  private enum Stage { case running, ended, runningLateJobs }

  private struct Inbox {
    var stage = Stage.running
    /// Waits in the kernel, or is about to: the next thread that posts wakes it, once.
    var isAsleep = false
    var jobs: [UnownedJob] = []
    var commands: [Command] = []
  }

  package let backend: IOBackend
  /// Where blocking system calls run, off the loop.
  let blockingCalls: BlockingCalls
  let gate: Gate
  private let name: String
  private let wakeFile: FileDescriptor
  private let inbox = Lock(Inbox())
  /// The loop's pthread_t, 0 while it has none.
  private let threadID = Atomic<UInt>(0)
  /// Something was posted since the inbox was read.
  private let hasMail = Atomic<Bool>(false)

  // Confined to the loop's thread.
  private var ready = ExecutorQueue()
  private var timers = TimerHeap()
  var waits = WaitTable()
  var port: (any LoopPort)?
  /// Waits, file operations and blocking calls that haven't answered.
  var inFlightCount = 0
  /// File operations among them.
  var fileOperationCount = 0
  private(set) var refusesWaits = false
  private var isDraining = false
  private var pollingTime = PollingTime()
  private var spareJobs: [UnownedJob] = []
  private var spareCommands: [Command] = []

  init(name: String, backend: IOBackend, blockingCalls: BlockingCalls, gate: Gate) throws(SystemError) {
    self.name = name
    self.backend = backend
    self.blockingCalls = blockingCalls
    self.gate = gate
    guard let wakeFile = FileDescriptor(result: eventfd(0, Int32(EFD_CLOEXEC | EFD_NONBLOCK))) else { throw .last }
    self.wakeFile = wakeFile
  }

  /// Starts the thread, which signals `ended` when it is about to return.
  /// - Throws: what kept the backend from starting.
  func start(ended: Semaphore) throws(SystemError) -> Thread {
    let started = Semaphore()
    let failure = Lock<SystemError?>(nil)
    let thread = try Thread(name: name) { [self] in
      threadID.store(UInt(pthread_self()), ordering: .relaxed)
      gate.addLoopThread()
      do throws(SystemError) {
        port = try makePort()
        started.signal()
        turnUntilDrained()
      } catch {
        failure.withLock { $0 = error }
        started.signal()
      }
      threadID.store(0, ordering: .relaxed)
      gate.removeLoopThread()
      ended.signal()
    }
    started.wait()
    if let failure = failure.withLock({ $0 }) {
      thread.join()
      throw failure
    }
    return thread
  }

  private func makePort() throws(SystemError) -> any LoopPort {
    switch backend {
    case .ioUring: try RingPort(loop: self, wakeDescriptor: wakeFile.rawValue)
    case .epoll: try EpollPort(loop: self, wakeDescriptor: wakeFile.rawValue, blockingCalls: blockingCalls)
    }
  }

  // MARK: Executor

  /// True on the loop's own thread.
  package var isOnLoop: Bool { threadID.load(ordering: .relaxed) == UInt(pthread_self()) }

  package func checkIsolated() { precondition(isOnLoop, "not on the event loop \(name)") }

  package func isIsolatingCurrentContext() -> Bool? { isOnLoop }

  package func isSameExclusiveExecutionContext(other: EventLoop) -> Bool { self === other }

  package func enqueue(_ job: consuming ExecutorJob) {
    let job = UnownedJob(job)
    if isOnLoop { ready.push(job) } else { post { $0.jobs.append(job) } }
  }

  /// Has the loop carry out `command` at its next turn; from any thread.
  func post(_ command: Command) { post { $0.commands.append(command) } }

  private func post(_ append: (inout Inbox) -> Void) {
    let (wakes, startsLateThread) = inbox.withLock { inbox in
      append(&inbox)
      hasMail.store(true, ordering: .releasing)
      if inbox.stage == .ended {
        inbox.stage = .runningLateJobs
        return (false, true)
      }
      defer { inbox.isAsleep = false }
      return (inbox.isAsleep, false)
    }
    if wakes { eventfd_write(wakeFile.rawValue, 1) }
    if startsLateThread { startLateThread() }
  }

  // MARK: The loop

  private func turnUntilDrained() {
    while true {
      runJobs()
      fireTimers()
      if isDraining, ready.isEmpty, inFlightCount == 0, endIfInboxIsEmpty() { break }
      turn()
      if hasMail.load(ordering: .acquiring) { readInbox() }
    }
    port?.close()
    port = nil
  }

  private func turn() {
    let wait = turnWait
    var isBusy = false
    if case .none = wait { isBusy = true }
    if isBusy || polls(wait) || !fallAsleep() {
      port?.turn(.none)
      return
    }
    let start = MonotonicTime.now
    port?.turn(wait)
    wakeUp()
    pollingTime.slept(nanoseconds: MonotonicTime.now.nanoseconds(since: start))
  }

  /// Polls for a bounded time before sleeping; true if something completed. A loop that awaits the storage doesn't poll:
  /// a device takes longer than a waking, and the kernel's workers want the cores.
  private func polls(_ wait: TurnWait) -> Bool {
    guard pollingTime.nanoseconds > 0, fileOperationCount == 0, let port, port.canPoll else { return false }
    var end = MonotonicTime.now
    end.nanoseconds += pollingTime.nanoseconds
    if case .until(let deadline) = wait { end = min(end, deadline) }
    port.submit()
    repeat {
      if hasMail.load(ordering: .relaxed) || port.hasNews {
        pollingTime.foundWork()
        return true
      }
      shim_relax()
    } while MonotonicTime.now < end
    pollingTime.foundNothing()
    return false
  }

  /// From now on a thread that posts wakes the loop; false if one has posted already.
  private func fallAsleep() -> Bool {
    inbox.withLock { inbox in
      guard inbox.jobs.isEmpty, inbox.commands.isEmpty else { return false }
      inbox.isAsleep = true
      return true
    }
  }

  private func wakeUp() { inbox.withLock { $0.isAsleep = false } }

  private var turnWait: TurnWait {
    if !ready.isEmpty || (isDraining && inFlightCount == 0) { return .none }
    return timers.earliest.map { .until($0) } ?? .forever
  }

  private func runJobs() {
    let task = asUnownedTaskExecutor()
    let serial = asUnownedSerialExecutor()
    for _ in 0..<Self.jobsPerTurn {
      guard let job = ready.pop() else { return }
      job.runSynchronously(isolatedTo: serial, taskExecutor: task)
    }
  }

  private func fireTimers() {
    guard timers.earliest != nil else { return }
    let now = MonotonicTime.now
    while let due = timers.popDue(now, isLive: { waits.isWaiting($0) }) {
      waits.end(due.wait)?.resume(returning: 0)
    }
  }

  private func endIfInboxIsEmpty() -> Bool {
    inbox.withLock { inbox in
      guard inbox.jobs.isEmpty, inbox.commands.isEmpty else { return false }
      inbox.stage = .ended
      return true
    }
  }

  /// Takes in what other threads posted. Called by the port after a wake-up.
  func readInbox() {
    inbox.withLock { inbox in
      hasMail.store(false, ordering: .relaxed)
      swap(&inbox.jobs, &spareJobs)
      swap(&inbox.commands, &spareCommands)
    }
    for job in spareJobs { ready.push(job) }
    spareJobs.removeAll(keepingCapacity: true)
    for command in spareCommands { carryOut(command) }
    spareCommands.removeAll(keepingCapacity: true)
  }

  private func carryOut(_ command: Command) {
    switch command {
    case .cancel(let wait): cancelNow(wait)
    case .complete(let completion, let result): completion.resume(returning: result)
    case .refuseWaits:
      refusesWaits = true
      for wait in waits.tokens { cancelNow(wait) }
    case .drain: isDraining = true
    }
  }

  // MARK: Late jobs

  private func startLateThread() {
    do throws(SystemError) {
      try Thread(name: name, { [self] in runLateJobs() }).detach()
    } catch {
      // No thread to be had: this one does it, which is as exclusive.
      runLateJobs()
    }
  }

  private func runLateJobs() {
    threadID.store(UInt(pthread_self()), ordering: .relaxed)
    while true {
      readInbox()
      while !ready.isEmpty { runJobs() }
      let isDone = inbox.withLock { inbox in
        guard inbox.jobs.isEmpty, inbox.commands.isEmpty else { return false }
        threadID.store(0, ordering: .relaxed)
        inbox.stage = .ended
        return true
      }
      if isDone { return }
    }
  }

  // MARK: Waits

  /// Ends a wait with what the kernel answered. Called by the port.
  func finish(_ wait: WaitToken, _ result: Int32) { waits.end(wait)?.resume(returning: result) }

  func startTimer(_ wait: WaitToken, _ deadline: MonotonicTime) {
    timers.insert(TimerHeap.Entry(deadline: deadline, wait: wait))
  }

  func cancelNow(_ wait: WaitToken) {
    switch waits.cancel(wait) {
    case .timer:
      waits.end(wait)?.resume(returning: -ECANCELED)
      timers.abandonOne { waits.isWaiting($0) }
    case .socket: port?.cancel(wait)
    case nil: break
    }
  }
}
