import Glibc
import Locks

/// The program's event loops, one thread each, with the threads for blocking calls beside them.
package final class EventLoopGroup: Sendable {
  /// How long ``shutdown(grace:)`` lets waits go on by default.
  package static let defaultGrace = Duration.seconds(5)

  private enum Stage {
    case running
    case closing([UnsafeContinuation<Void, Never>])
    case closed
  }

  private struct State {
    var stage = Stage.running
    var threads: [Thread] = []
    var nextIndex = 0
  }

  package let backend: IOBackend
  /// Why `backend` isn't io_uring although it might have been; nil where there is nothing to explain.
  package let backendReason: String?
  package let loops: [EventLoop]
  /// For compression, hashing and other CPU-heavy work.
  package let workers: WorkerPool
  private let blockingCalls: BlockingCalls
  private let gate = Gate()
  private let ended = Semaphore()
  private let state = Lock(State())

  /// Starts `count` loops.
  /// - Parameters:
  ///   - count: loops; default one for each core.
  ///   - workerCount: threads of `workers`; default one for each core.
  /// - Throws: what kept a forced backend, or a thread, from starting.
  package init(
    count: Int? = nil, backend choice: IOBackend.Choice = .automatic, workerCount: Int? = nil
  ) throws(SystemError) {
    let coreCount = max(1, Int(sysconf(Int32(_SC_NPROCESSORS_ONLN))))
    (backend, backendReason) = try Self.choose(choice)
    workers = try WorkerPool(threadCount: workerCount ?? coreCount, name: "worker")
    blockingCalls = try BlockingCalls()
    var loops: [EventLoop] = []
    for index in 0..<max(1, count ?? coreCount) {
      loops.append(
        try EventLoop(name: "loop-\(index)", backend: backend, blockingCalls: blockingCalls, gate: gate))
    }
    self.loops = loops
    for loop in loops {
      do throws(SystemError) {
        let thread = try loop.start(ended: ended)
        state.withLock { $0.threads.append(thread) }
      } catch {
        abandonLoops()
        throw error
      }
    }
  }

  deinit { abandonLoops() }

  /// The backend to use, and why it isn't io_uring.
  private static func choose(_ choice: IOBackend.Choice) throws(SystemError) -> (IOBackend, String?) {
    switch choice {
    case .forced(.epoll): return (.epoll, "epoll was asked for")
    case .forced(.ioUring):
      if let refusal = IOBackend.refusalOfIOUring() { throw SystemError(EOPNOTSUPP, refusal) }
      return (.ioUring, nil)
    case .automatic:
      let refusal = IOBackend.refusalOfIOUring()
      return (refusal == nil ? .ioUring : .epoll, refusal)
    }
  }

  /// The loops in turn: a home for the next image.
  package func next() -> EventLoop {
    loops[
      state.withLock { state in
        defer { state.nextIndex = (state.nextIndex + 1) % loops.count }
        return state.nextIndex
      }]
  }

  /// Always the same loop for the same key, while the process lives.
  package func loop(for key: some Hashable) -> EventLoop {
    loops[Int(UInt(bitPattern: key.hashValue) % UInt(loops.count))]
  }

  // MARK: The end

  /// Lets no new ``EventLoop/run(_:)`` in (but from inside another, so that it can come to its end), waits for those inside and for everything in flight, and ends the threads.
  ///
  /// Nothing in flight is dropped: file I/O and blocking calls run to their end. Waits that have none of their own
  /// (sockets, timers) end with ECANCELED once `grace` has passed, as do new ones. Tasks that the loops don't wait
  /// for (started otherwise than by `run`, and suspended on something else) come to late jobs, see ``EventLoop``.
  /// A second call waits for the first. Never call it from one of the loops.
  package func shutdown(grace: Duration = EventLoopGroup.defaultGrace) async {
    precondition(!loops.contains { $0.isOnLoop }, "a loop can't wait for its own end")
    let deadline = MonotonicTime.now.advanced(by: grace)
    await withUnsafeContinuation { (continuation: UnsafeContinuation<Void, Never>) in
      let (isFirst, isClosed) = state.withLock { state in
        switch state.stage {
        case .running:
          state.stage = .closing([continuation])
          return (true, false)
        case .closing(let others):
          state.stage = .closing(others + [continuation])
          return (false, false)
        case .closed: return (false, true)
        }
      }
      if isClosed { continuation.resume() }
      if isFirst { startEnd(deadline) }
    }
  }

  private func startEnd(_ deadline: MonotonicTime) {
    do throws(SystemError) {
      try Thread(name: "shutdown", { [self] in end(deadline) }).detach()
    } catch {
      // No thread to be had: this one waits.
      end(deadline)
    }
  }

  private func end(_ deadline: MonotonicTime) {
    gate.shut()
    if !gate.empty.wait(until: deadline) {
      refuseWaits()
      gate.empty.wait()
    }
    for loop in loops { loop.post(.drain) }
    var endedCount = 0
    while endedCount < loops.count, ended.wait(until: deadline) { endedCount += 1 }
    if endedCount < loops.count {
      refuseWaits()
      while endedCount < loops.count {
        ended.wait()
        endedCount += 1
      }
    }
    for thread in takeThreads() { thread.join() }
    blockingCalls.shutdown()
    workers.shutdown()
    let waiting = state.withLock { state in
      defer { state.stage = .closed }
      if case .closing(let waiting) = state.stage { return waiting }
      return []
    }
    for continuation in waiting { continuation.resume() }
  }

  private func refuseWaits() {
    for loop in loops { loop.post(.refuseWaits) }
  }

  private func takeThreads() -> [Thread] {
    state.withLock { state in
      defer { state.threads = [] }
      return state.threads
    }
  }

  /// For a group that was never shut down: its threads end by themselves once nothing is left to do.
  private func abandonLoops() {
    let threads = takeThreads()
    guard !threads.isEmpty else { return }
    for loop in loops { loop.post(.drain) }
    for thread in threads { thread.detach() }
  }
}
