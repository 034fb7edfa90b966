import GRDB
import Model

extension Job: RevisedEntity {
  static let noun = "job"

  static let mapping = RowMapping(
    "jobs",
    Column("id", \Job.id),
    Column(json: "request", \.request),
    Column("state", \.state),
    progressColumns,
    Column("created_at", \.createdAt),
    Column("started_at", \.startedAt),
    Column("finished_at", \.finishedAt),
    Column("waiting_for", \.waitingFor),
    Column("paused_until", \.pausedUntil),
    Column("retry_of", \.retryOf),
    Column(jsonOrNull: "result", \.result),
    Column(jsonOrNull: "error", \.error),
    Column(json: "links", \.links),
    Column("revision", \.revision),
    derived: [RowMapping<Job>.DerivedColumn(name: "kind") { $0.request.kind.rawValue }],
    make: Job.init)

  /// The part of a job's row that changes most often, and then alone.
  static let progressColumns = Column<Job, JobProgress>(
    "progress_done", "progress_total", "progress_rate", "progress_eta"
  ) { reader in
    JobProgress(
      done: try UInt64(from: &reader), total: try UInt64(from: &reader), rate: try UInt64(from: &reader),
      eta: try Int?(from: &reader))
  } write: { job, values in
    values += try job.progress.stored()
  }
}

extension JobProgress {
  /// The values of ``Job/progressColumns``.
  func stored() throws -> [DatabaseValue] {
    [
      try done.stored(in: "progress_done"), try total.stored(in: "progress_total"),
      try rate.stored(in: "progress_rate"), try eta.stored(in: "progress_eta"),
    ]
  }
}

/// Its row names the job too, which the entry doesn't.
extension JobLogEntry: StoredEntity {
  static let mapping = RowMapping(
    "job_log",
    Column("sequence", \JobLogEntry.sequence),
    Column("at", \.at),
    Column("level", \.level),
    Column("message", \.message),
    make: JobLogEntry.init)
}
