import Foundation
import Model

/// How a job's work ended, and what has to be written with it.
struct JobEnd: Sendable {
  enum Verdict: Sendable {
    case succeeded
    case failed(ProblemDetails)
    /// Stopped at a checkpoint.
    case stopped(LiveJob.StopReason)
  }

  var verdict: Verdict
  var result: JobResult?
  /// What the end means for other rows; repeatable, for its first commit may have been told as a failure.
  var changes: @Sendable (CatalogTransaction) throws -> Void

  init(
    _ verdict: Verdict, result: JobResult? = nil,
    changes: @Sendable @escaping (CatalogTransaction) throws -> Void = { _ in }
  ) {
    self.verdict = verdict
    self.result = result
    self.changes = changes
  }

  /// The end by `error`, which is the stop of `live` if it was told to.
  init(
    _ error: any Error, of live: LiveJob, result: JobResult? = nil,
    changes: @Sendable @escaping (CatalogTransaction) throws -> Void = { _ in }
  ) {
    if error is CancellationError, let reason = live.stopReason {
      self.init(.stopped(reason), result: result, changes: changes)
    } else {
      self.init(.failed(ProblemDetails(error)), result: result, changes: changes)
    }
  }
}

extension ProblemDetails {
  /// What is kept of an error: a domain error as it is, anything else as an internal one.
  init(_ error: any Error) {
    switch error {
    case let error as DomainError: self.init(error)
    case is CancellationError: self.init(DomainError(.cancelled, "it was cancelled"))
    default: self.init(DomainError(.internalError, String(describing: error)))
    }
  }

  static var interrupted: ProblemDetails {
    ProblemDetails(
      DomainError(
        .interrupted, "the server stopped while the job wasn't ended", remedy: "ask for the same work again"))
  }
}
