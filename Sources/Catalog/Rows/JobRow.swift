import Foundation
import GRDB
import Model

struct JobRow: TableRow {
  static let table = "jobs"
  static let columns = [
    "id", "kind", "request", "state", "progress_done", "progress_total", "progress_rate", "progress_eta",
    "created_at", "started_at", "finished_at", "waiting_for", "paused_until", "retry_of", "result", "error", "links",
    "revision",
  ]

  let id: String
  let kind: String
  let request: String
  let state: String
  let progress: ProgressColumns
  let createdAt: Int64
  let startedAt: Int64?
  let finishedAt: Int64?
  let waitingFor: String?
  let pausedUntil: Int64?
  let retryOf: String?
  let result: String?
  let error: String?
  let links: String
  let revision: Int

  init(_ job: Job) throws {
    id = job.id.description
    kind = job.request.kind.rawValue
    request = try StoredForm.json(job.request)
    state = job.state.rawValue
    progress = try ProgressColumns(job.progress)
    createdAt = job.createdAt.milliseconds
    startedAt = job.startedAt?.milliseconds
    finishedAt = job.finishedAt?.milliseconds
    waitingFor = job.waitingFor
    pausedUntil = job.pausedUntil?.milliseconds
    retryOf = job.retryOf?.description
    result = try job.result.map { try StoredForm.json($0) }
    error = try job.error.map { try StoredForm.json($0) }
    links = try StoredForm.json(job.links)
    revision = job.revision
  }

  init(from columns: inout ColumnReader) {
    id = columns.next()
    kind = columns.next()
    request = columns.next()
    state = columns.next()
    progress = ProgressColumns(from: &columns)
    createdAt = columns.next()
    startedAt = columns.nextOrNull()
    finishedAt = columns.nextOrNull()
    waitingFor = columns.nextOrNull()
    pausedUntil = columns.nextOrNull()
    retryOf = columns.nextOrNull()
    result = columns.nextOrNull()
    error = columns.nextOrNull()
    links = columns.next()
    revision = columns.next()
  }

  var values: [(any DatabaseValueConvertible)?] {
    [id, kind, request, state] + progress.values
      + [createdAt, startedAt, finishedAt, waitingFor, pausedUntil, retryOf, result, error, links, revision]
  }

  func entity() throws -> Job {
    let check = RowCheck(table: Self.table, key: id)
    return Job(
      id: try check.id(id), request: try check.json(request), state: try check.choice(state),
      progress: try progress.progress(check), createdAt: Date(milliseconds: createdAt),
      startedAt: startedAt.map { Date(milliseconds: $0) }, finishedAt: finishedAt.map { Date(milliseconds: $0) },
      waitingFor: waitingFor, pausedUntil: pausedUntil.map { Date(milliseconds: $0) }, retryOf: try check.id(retryOf),
      result: try result.map { try check.json($0) },
      error: try error.map { try check.json($0) }, links: try check.json(links), revision: revision)
  }
}

/// The part of a job's row that changes most often, and then alone.
struct ProgressColumns {
  let done: Int64
  let total: Int64
  let rate: Int64
  let eta: Int?

  init(_ progress: JobProgress) throws {
    done = try StoredForm.count(progress.done, "progress.done")
    total = try StoredForm.count(progress.total, "progress.total")
    rate = try StoredForm.count(progress.rate, "progress.rate")
    eta = progress.eta
  }

  init(from columns: inout ColumnReader) {
    done = columns.next()
    total = columns.next()
    rate = columns.next()
    eta = columns.nextOrNull()
  }

  var values: [(any DatabaseValueConvertible)?] { [done, total, rate, eta] }

  func progress(_ check: RowCheck) throws -> JobProgress {
    JobProgress(done: try check.count(done), total: try check.count(total), rate: try check.count(rate), eta: eta)
  }
}
