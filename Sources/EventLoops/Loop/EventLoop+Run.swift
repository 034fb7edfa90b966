import Glibc

extension EventLoop {
  /// Runs `body` on this loop: it starts here and comes back here after each wait.
  ///
  /// It stays part of the calling task: cancellation, priority and task-local values carry over. Group shutdown
  /// waits for it.
  /// - Throws: what `body` throws; `SystemError.shutDown` if the group is shutting down (`body` didn't run),
  ///   unless the call comes from a body that is still at work on one of its loops.
  @concurrent package func run<Result: Sendable, Failure: Error>(
    _ body: @concurrent @Sendable @escaping () async throws(Failure) -> Result
  ) async throws -> Result {
    try gate.enter()
    defer { gate.leave() }
    return try await withTaskExecutorPreference(self) {
      // Makes sure of the hop: Swift 6.3.1 leaves it out where all that follows is calls that promise to make one, and
      // a `body` that begins with a `nonisolated(nonsending)` call makes none.
      checkIsolated()
      return try await body()
    }
  }

  /// Runs blocking `work` (a system call) on the group's threads for such; the loop goes on meanwhile.
  /// - Parameter lane: what it may hang with.
  package func blocking<Result: Sendable>(
    in lane: BlockingLane = .current, _ work: @Sendable @escaping () -> Result
  ) async -> Result {
    beginOperation()
    defer { endOperation() }
    return await blockingCalls.run(in: lane, work)
  }

  /// Runs blocking `work` that may fail with a system error.
  package func blocking<Result: Sendable>(
    in lane: BlockingLane = .current, _ work: @Sendable @escaping () throws(SystemError) -> Result
  ) async throws(SystemError) -> Result {
    try await blocking(in: lane) { () -> Swift.Result<Result, SystemError> in
      do throws(SystemError) { return .success(try work()) } catch { return .failure(error) }
    }.get()
  }

  /// Suspends the task for `duration`.
  /// - Throws: ECANCELED as soon as the task is cancelled, or the loop stops waiting.
  package func sleep(for duration: Duration) async throws(SystemError) {
    checkIsolated()
    let deadline = MonotonicTime.now.advanced(by: duration)
    guard port != nil else { throw .shutDown }
    let result = await wait(reserveWait(.timer)) { startTimer($0, deadline) }
    if result < 0 { throw SystemError(-result) }
  }

  /// Names a wait about to begin; ``wait(_:_:)`` follows for certain.
  func reserveWait(_ kind: WaitTable.Kind) -> WaitToken {
    checkIsolated()
    let token = waits.reserve(kind)
    // Marks it, so that it ends before it begins.
    if refusesWaits || Task.isCancelled { cancelNow(token) }
    return token
  }

  /// Counts something that will come back to this loop.
  func beginOperation() {
    checkIsolated()
    inFlightCount += 1
  }

  /// It has come back, to the loop that it left.
  func endOperation() {
    checkIsolated()
    inFlightCount -= 1
  }

  /// One cancellable wait: `start` hands it to the kernel. The result, or a negative errno.
  ///
  /// Takes the caller's isolation as a parameter, since only by capturing it do the closures below stay on the
  /// caller's executor: in another function they would hop to the task's, and back.
  func wait(
    _ token: WaitToken, isolation: isolated (any Actor)? = #isolation, _ start: (WaitToken) -> Void
  ) async -> Int32 {
    beginOperation()
    defer { endOperation() }
    return await withTaskCancellationHandler {
      _ = isolation
      return await withUnsafeContinuation { (completion: Completion) in
        if waits.begin(token, completion) { start(token) } else { completion.resume(returning: -ECANCELED) }
      }
    } onCancel: {
      // Always by way of the inbox: the handler may hold the task's own lock.
      post(.cancel(token))
    }
  }
}
