import HTTPServer
import Model
import Orchestrator

/// Jobs: reading, waiting for, steering.
struct JobRoutes {
  let service: BackupService

  private static let collection = "\(APIPath.root)/jobs"
  private static let item = "\(collection)/{job}"

  var all: [Route] {
    [
      Route(.get, Self.collection, needs: .read, query: [.state, .kind, .limit, .cursor], .now(list)),
      Route(.get, Self.item, needs: .read, query: [.wait], .either(now: getAtOnce, later: awaitChange)),
      Route(.get, "\(Self.item)/log", needs: .read, query: [.limit, .cursor], .now(log)),
      Route(.post, "\(Self.item)/cancel", needs: .backup, query: [.dryRun], body: .optionalObject, .later(cancel)),
      Route(.post, "\(Self.item)/pause", needs: .backup, query: [.dryRun], body: .optionalObject, .later(pause)),
      Route(.post, "\(Self.item)/resume", needs: .backup, query: [.dryRun], body: .optionalObject, .later(resume)),
    ]
  }

  @Sendable private func list(_ call: Call) throws -> HTTPResponse {
    let filter = JobFilter(states: try call.query.choices(.state), kind: try call.query.choice(.kind))
    let page = try service.jobs(filter, try call.query.page())
    return try JSONAnswer.ok(PageDocument(page.map(JobDocument.init)), to: call)
  }

  // MARK: Waiting

  /// Seconds that `wait` may ask for.
  static let waits = 0...60

  private func answer(_ job: Job, to call: Call) throws(DomainError) -> HTTPResponse {
    try JSONAnswer.ok(JobDocument(job), revision: job.revision, to: call)
  }

  @Sendable private func getAtOnce(_ call: Call) throws -> HTTPResponse? {
    let job = try service.job(try call.job())
    let seconds = try call.query.integer(.wait, in: Self.waits) ?? 0
    return seconds == 0 || job.state.isEnded ? try answer(job, to: call) : nil
  }

  /// Answers when the job has ended or time is up. A request that knows a version of the job waits for a change of
  /// its state only; what has progressed by the end of its time is a new version too.
  @Sendable private func awaitChange(_ call: Call) async throws -> HTTPResponse {
    let id = try call.job()
    let seconds = try call.query.integer(.wait, in: Self.waits) ?? 0
    let job = try service.job(id)
    let known = try EntityTagList(call.request.headers.values("If-None-Match"), header: "If-None-Match")
    if job.state.isEnded || known?.knows(job.revision) == false { return try answer(job, to: call) }
    let changed = try await service.job(
      id, wait: .seconds(seconds), knownRevision: known == nil ? nil : job.revision)
    return try answer(try changed ?? service.job(id), to: call)
  }

  // MARK: Log and actions

  @Sendable private func log(_ call: Call) throws -> HTTPResponse {
    let page = try service.jobLog(try call.job(), try call.query.page())
    return try JSONAnswer.ok(PageDocument(page.map(JobLogDocument.init)), to: call)
  }

  @Sendable private func cancel(_ call: Call) async throws -> HTTPResponse {
    try call.fields().nothing()
    return try await steer(call) { try await service.cancelJob($0, $1) }
  }

  @Sendable private func pause(_ call: Call) async throws -> HTTPResponse {
    let length = try call.fields().pauseLength()
    return try await steer(call) { try await service.pauseJob($0, length, $1) }
  }

  @Sendable private func resume(_ call: Call) async throws -> HTTPResponse {
    try call.fields().nothing()
    return try await steer(call) { try await service.resumeJob($0, $1) }
  }

  private func steer(
    _ call: Call, _ action: (JobID, ChangeConditions<Job>) async throws -> Answer<Job>
  ) async throws -> HTTPResponse {
    let id = try call.job()
    return try await call.change(
      at: { try service.job(id).revision }, render: StoredAnswer.accepted, { try await action(id, $0) })
  }
}

extension Call {
  func job() throws(DomainError) -> JobID { try id(of: "job") }
}

extension EntityTagList {
  /// Whether a tag names this revision, or any.
  fileprivate func knows(_ revision: Int) -> Bool { self == .any || revisions.contains(revision) }
}

extension StoredAnswer {
  /// 202 with the job that does the work.
  static func accepted(_ job: Job) -> StoredAnswer {
    StoredAnswer(202, JobDocument(job), revision: job.revision, location: APIPath.job(job.id))
  }
}
