import Foundation
import Locks
import Model

/// A job in flight: the engine's line to it, and what is known of it between two writes to the catalog.
///
/// L1. Orders carry the revision of the job's row that they follow from; an older one than the last is ignored, so
///     that a pause and a resume end as their transactions did, in whatever order they arrive here.
/// L2. Once stopped it stays stopped, and the first reason stands.
/// L3. Log lines are numbered here, without holes, up to `ServiceLimits.logLinesPerJob`.
final class LiveJob: JobControl {
  enum StopReason: Sendable {
    case cancelled
    /// The server goes down.
    case stopping
  }

  private struct State {
    var isPaused = false
    var orderedAt = 0
    var stop: StopReason?
    var waiters: [CheckedContinuation<Void, Never>] = []
    var meter: ProgressMeter
    var unstored: [JobLogEntry] = []
    var lineCount = 0

    mutating func takeWaiters() -> [CheckedContinuation<Void, Never>] {
      defer { waiters = [] }
      return waiters
    }
  }

  let job: JobID
  /// "the backup job 01J…"
  let title: String
  let speedLimit: UInt64
  private let time: any TimeSource
  private let limits: ServiceLimits
  private let state: Lock<State>

  /// `legs`: bytes of each part of the work as far as they are known, e.g. one per image.
  init(_ job: Job, legs: [UInt64], time: any TimeSource, limits: ServiceLimits) {
    self.job = job.id
    title = "the \(job.request.kind.rawValue) job \(job.id)"
    speedLimit = job.request.work.speedLimit
    self.time = time
    self.limits = limits
    state = Lock(State(meter: ProgressMeter(legs: legs)))
  }

  // MARK: The engine's side

  func report(done: UInt64, total: UInt64) { state.withLock { $0.meter.report(done: done, total: total) } }

  func log(_ level: JobLogEntry.Level, _ message: String) {
    let now = time.now()
    state.withLock { state in
      guard state.lineCount < limits.logLinesPerJob else { return }
      state.lineCount += 1
      let isLast = state.lineCount == limits.logLinesPerJob
      let text = isLast ? "the log is full: further lines aren't kept" : Self.cut(message, limits.logLineLength)
      state.unstored.append(
        JobLogEntry(sequence: state.lineCount, at: now, level: isLast ? .warning : level, message: text))
    }
  }

  func checkpoint() async throws {
    while true {
      guard stopReason == nil, !Task.isCancelled else { throw CancellationError() }
      guard state.withLock({ $0.isPaused }) else { return }
      await pauseToEnd()
    }
  }

  /// Work that overwrites something has a line of its own.
  func willOverwrite() async throws {}

  private func pauseToEnd() async {
    await withTaskCancellationHandler {
      await withCheckedContinuation { continuation in
        let waits = state.withLock { state in
          guard state.isPaused, state.stop == nil, !Task.isCancelled else { return false }
          state.waiters.append(continuation)
          return true
        }
        if !waits { continuation.resume() }
      }
    } onCancel: {
      // Wakes all of them: the others see that they still have to wait.
      wake()
    }
  }

  private func wake() {
    for waiter in state.withLock({ $0.takeWaiters() }) { waiter.resume() }
  }

  // MARK: The service's side

  var stopReason: StopReason? { state.withLock { $0.stop } }

  /// Pauses or resumes, as the job's row says since `revision`.
  func setPaused(_ isPaused: Bool, revision: Int) {
    state.withLock { state in
      guard revision > state.orderedAt else { return }
      state.orderedAt = revision
      state.isPaused = isPaused
      if isPaused { state.meter.rest() }
    }
    if !isPaused { wake() }
  }

  func stop(_ reason: StopReason) {
    state.withLock { $0.stop = $0.stop ?? reason }
    wake()
  }

  /// The parts of the work are others than was told at first, in bytes; to be called before the first report.
  func expect(legs: [UInt64]) { state.withLock { $0.meter = ProgressMeter(legs: legs) } }

  /// The leg at hand is over, `whole` or after as much as was reported; reports are of the next one from now on.
  func finishLeg(whole: Bool) { state.withLock { $0.meter.finishLeg(whole: whole) } }

  var progress: JobProgress { state.withLock { $0.meter.progress } }

  /// Measures the rate up to now; returns the progress if it changed since the last call.
  func sample(at instant: ContinuousClock.Instant) -> JobProgress? {
    state.withLock { $0.meter.sample(at: instant) }
  }

  /// The lines that aren't stored yet. They count as stored from now on, until given back.
  func takeLines() -> [JobLogEntry] {
    state.withLock { state in
      defer { state.unstored = [] }
      return state.unstored
    }
  }

  func giveBack(_ lines: [JobLogEntry]) { state.withLock { $0.unstored = lines + $0.unstored } }

  private static func cut(_ message: String, _ length: Int) -> String {
    message.utf8.count <= length ? message : String(decoding: message.utf8.prefix(length), as: UTF8.self) + "…"
  }
}
