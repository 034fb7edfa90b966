import Locks

/// Where the producer of a streamed response writes.
package final class HTTPBodyWriter: ResponseSource {
  private struct State: Sendable {
    var queue = OutgoingQueue()
    var phase = Phase.idle
    var waiters: [UInt64: CheckedContinuation<Void, Never>] = [:]
    var nextWaiter: UInt64 = 0

    mutating func takeWaiters() -> [CheckedContinuation<Void, Never>] {
      defer { waiters = [:] }
      return Array(waiters.values)
    }
  }

  private enum Phase: Sendable {
    /// The producer runs once libmicrohttpd asks for content: never for HEAD.
    case idle
    case producing
    case finished
    case broken
    case closed
  }

  private enum Attempt: Sendable {
    case done
    case full
  }

  /// With this many bytes unsent `write` waits.
  package static let highWater = 256 << 10

  private let state = Lock(State())
  private let start: @Sendable (HTTPBodyWriter) -> Task<Void, Never>
  private let task = Lock<Task<Void, Never>?>(nil)
  private let wake: @Sendable () -> Void

  /// - Parameters:
  ///   - wake: called after each change that lets `read` go on.
  init(
    executor: (any TaskExecutor)?, wake: @escaping @Sendable () -> Void,
    producer: @escaping @Sendable (HTTPBodyWriter) async throws -> Void
  ) {
    self.wake = wake
    start = { writer in
      Task(executorPreference: executor) {
        do {
          try await producer(writer)
          writer.finish(.finished)
        } catch {
          writer.finish(.broken)
        }
      }
    }
  }

  /// Sends these bytes after those before them, once fewer than `highWater` bytes wait unsent.
  ///
  /// - Throws: `HTTPClientGone`, or `CancellationError` if the task is cancelled while it waits.
  package func write(_ bytes: [UInt8]) async throws {
    while try attempt(bytes) == .full {
      try Task.checkCancellation()
      await waitForRoom()
    }
    wake()
  }

  private func attempt(_ bytes: [UInt8]) throws(HTTPClientGone) -> Attempt {
    try state.withLock { state throws(HTTPClientGone) in
      guard case .producing = state.phase else { throw HTTPClientGone() }
      guard state.queue.bytes < Self.highWater else { return .full }
      state.queue.append(bytes)
      return .done
    }
  }

  private func waitForRoom() async {
    let number = state.withLock { state in
      state.nextWaiter += 1
      return state.nextWaiter
    }
    await withTaskCancellationHandler {
      await withCheckedContinuation { waiter in
        let atOnce = state.withLock { state in
          guard case .producing = state.phase, state.queue.bytes >= Self.highWater, !Task.isCancelled else {
            return true
          }
          state.waiters[number] = waiter
          return false
        }
        if atOnce { waiter.resume() }
      }
    } onCancel: {
      state.withLock { $0.waiters.removeValue(forKey: number) }?.resume()
    }
  }

  private func finish(_ end: Phase) {
    state.withLock { state in
      if case .producing = state.phase { state.phase = end }
    }
    wake()
  }

  func read(into buffer: UnsafeMutableRawBufferPointer) -> ResponseSourceStep {
    let (step, waiters, starts) = state.withLock { state in
      let count = state.queue.move(into: buffer)
      let waiters = state.queue.bytes < Self.highWater / 2 ? state.takeWaiters() : []
      if count > 0 { return (ResponseSourceStep.bytes(count: count), waiters, false) }
      switch state.phase {
      case .idle:
        state.phase = .producing
        return (.wait, waiters, true)
      case .producing: return (.wait, waiters, false)
      case .finished: return (.end, waiters, false)
      case .broken, .closed: return (.broken, waiters, false)
      }
    }
    waiters.forEach { $0.resume() }
    if starts { startProducer() }
    return step
  }

  private func startProducer() {
    let running = start(self)
    task.withLock { $0 = running }
    let isClosed = state.withLock { if case .closed = $0.phase { true } else { false } }
    if isClosed { running.cancel() }
  }

  func close() {
    let waiters = state.withLock { state in
      state.phase = .closed
      state.queue.clear()
      return state.takeWaiters()
    }
    waiters.forEach { $0.resume() }
    task.withLock { $0 }?.cancel()
  }
}
