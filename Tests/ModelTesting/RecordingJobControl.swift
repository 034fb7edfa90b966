import Locks
import Model

/// The engine's line to a job that exists only in the test: it remembers what it is told, and can be paused and
/// cancelled.
package final class RecordingJobControl: JobControl {
  package struct Report: Hashable, Sendable {
    package var done: UInt64
    package var total: UInt64

    package init(done: UInt64, total: UInt64) {
      self.done = done
      self.total = total
    }
  }

  private struct State {
    var speedLimit: UInt64
    var reports: [Report] = []
    var messages: [(level: JobLogEntry.Level, message: String)] = []
    var checkpoints = 0
    var overwrites = 0
    var cancelAtCheckpoint: Int?
    var isPaused = false
    var isCancelled = false
  }

  package let job: JobID
  private let state: Lock<State>

  /// Cancels by itself at the checkpoint of that number (from 1), if given.
  package init(job: JobID = JobID(), speedLimit: UInt64 = 0, cancelAtCheckpoint: Int? = nil) {
    self.job = job
    state = Lock(State(speedLimit: speedLimit, cancelAtCheckpoint: cancelAtCheckpoint))
  }

  package var speedLimit: UInt64 {
    get { state.withLock { $0.speedLimit } }
    set { state.withLock { $0.speedLimit = newValue } }
  }

  package func report(done: UInt64, total: UInt64) {
    state.withLock { $0.reports.append(Report(done: done, total: total)) }
  }

  package func log(_ level: JobLogEntry.Level, _ message: String) {
    state.withLock { $0.messages.append((level, message)) }
  }

  package func checkpoint() async throws {
    state.withLock { state in
      state.checkpoints += 1
      if state.checkpoints == state.cancelAtCheckpoint { state.isCancelled = true }
    }
    while true {
      let (isPaused, isCancelled) = state.withLock { ($0.isPaused, $0.isCancelled) }
      if isCancelled { throw CancellationError() }
      if !isPaused { return }
      try await Task.sleep(for: .milliseconds(1))
    }
  }

  package func willOverwrite() async throws { state.withLock { $0.overwrites += 1 } }

  package func pause() { state.withLock { $0.isPaused = true } }
  package func resume() { state.withLock { $0.isPaused = false } }
  package func cancel() { state.withLock { $0.isCancelled = true } }

  package var reports: [Report] { state.withLock { $0.reports } }
  package var messages: [(level: JobLogEntry.Level, message: String)] { state.withLock { $0.messages } }
  /// How often something was about to be overwritten.
  package var overwrites: Int { state.withLock { $0.overwrites } }
  package var checkpoints: Int { state.withLock { $0.checkpoints } }
}
