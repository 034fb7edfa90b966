import Foundation
import Model

/// How long a job is to be paused.
package enum PauseLength: Hashable, Sendable {
  /// `ServiceLimits.pauseLength` from now on; a pause that has begun stays as long as it is.
  case standard
  case until(Date)
  case withoutEnd

  func end(from now: Date, _ limits: ServiceLimits) throws(DomainError) -> Date? {
    switch self {
    case .standard: return now + limits.pauseLength
    case .withoutEnd: return nil
    case .until(let end):
      guard end > now else {
        throw DomainError(
          .invalidField, "a pause ends in the future",
          faults: [DomainError.Fault(.until, "must be in the future")])
      }
      return end
    }
  }
}

extension BackupService {
  /// The job as the catalog has it, with its progress as of now.
  package func job(_ id: JobID) throws -> Job { live(try transactions.read { try $0.find(id) }) }

  package func jobs(_ filter: JobFilter, _ page: PageRequest) throws -> Page<Job> {
    try transactions.read { try $0.jobs(filter, page) }.map(live)
  }

  package func jobLog(_ id: JobID, _ page: PageRequest) throws -> Page<JobLogEntry> {
    try transactions.read { catalog in
      _ = try catalog.find(id)
      return try catalog.jobLog(id, page)
    }
  }

  /// Waits at most `wait` (and `ServiceLimits.longestWait`) for the job to end; with a `knownRevision`, for it to have
  /// another revision, nil telling that it hasn't. No thread waits. Progress alone is no new revision.
  package func job(_ id: JobID, wait: Duration, knownRevision: Int? = nil) async throws -> Job? {
    let deadline = transactions.time.instant + min(wait, limits.longestWait)
    while true {
      let seen = transactions.commits.version
      let job = try job(id)
      if let knownRevision {
        if job.revision != knownRevision { return job }
      } else if job.state.isEnded {
        return job
      }
      let isOver = transactions.time.instant >= deadline || Task.isCancelled || transactions.commits.isClosed
      if isOver || job.state.isEnded { return knownRevision == nil ? job : nil }
      await transactions.commits.wait(beyond: seen, until: deadline, by: transactions.time)
    }
  }

  /// Ends a job that waits at once, and one that runs at its next checkpoint. Throws `jobFinished`.
  package func cancelJob(_ id: JobID, _ conditions: ChangeConditions<Job> = ChangeConditions()) async throws -> Answer<
    Job
  > {
    let answer = try await step(id, conditions, "cancel") { job, _ in
      switch job.state {
      case .queued: job.state = job.startedAt == nil ? .cancelled : .cancelling
      case .running, .paused: job.state = .cancelling
      default: break
      }
    }
    if case .done(let job) = answer {
      if job.state == .cancelled {
        await queue.leave(id)
      } else {
        queue.liveJobs[id]?.stop(.cancelled)
        await queue.note(job)
      }
    }
    return answer
  }

  /// Makes a job that has begun stand still at its next checkpoint, and frees its place. Throws `jobNotPausable`, also
  /// when `ServiceLimits.pausedJobs` are paused, and `jobFinished`.
  package func pauseJob(
    _ id: JobID, _ length: PauseLength = .standard, _ conditions: ChangeConditions<Job> = ChangeConditions()
  ) async throws -> Answer<Job> {
    let limits = limits
    let answer = try await step(id, conditions, "pause") { job, view in
      guard job.request.work.isPausable else {
        throw Self.notPausable(job, "a \(job.request.kind.rawValue) job can't be paused")
      }
      switch job.state {
      case .queued where job.startedAt == nil: throw Self.notPausable(job, "it hasn't started")
      case .running, .queued:
        let others = try view.catalog.jobs(JobFilter(states: [.paused]), PageRequest(limit: limits.pausedJobs)).items
          .count
        guard others < limits.pausedJobs else {
          throw Self.notPausable(job, "\(others) jobs are paused already: resume or cancel some")
        }
      case .paused:
        // The pause goes on as it is, unless another end is asked for.
        if case .standard = length { return }
      default: throw Self.notPausable(job, "it is being cancelled")
      }
      (job.state, job.waitingFor, job.pausedUntil) = (.paused, nil, try length.end(from: view.now, limits))
    }
    if case .done(let job) = answer { await queue.note(job) }
    return answer
  }

  /// Lets a paused job go on as soon as it has a place again. Throws `jobNotPausable`, `jobFinished`.
  package func resumeJob(_ id: JobID, _ conditions: ChangeConditions<Job> = ChangeConditions()) async throws -> Answer<
    Job
  > {
    let answer = try await step(id, conditions, "resume") { job, _ in
      switch job.state {
      case .paused: (job.state, job.pausedUntil) = (.queued, nil)
      case .queued where job.startedAt == nil: throw Self.notPausable(job, "it hasn't started")
      case .running, .queued: break
      default: throw Self.notPausable(job, "it is being cancelled")
      }
    }
    if case .done(let job) = answer { await queue.note(job) }
    return answer
  }

  // MARK: Parts

  /// Changes the job as `change` says, in one transaction with its event. What stays the same is no change.
  private func step(
    _ id: JobID, _ conditions: ChangeConditions<Job>, _ verb: String,
    _ change: @Sendable @escaping (inout Job, CatalogView) throws -> Void
  ) async throws -> Answer<Job> {
    let checked: @Sendable (CatalogView) throws -> (Job, Job) = { view in
      let job = try view.catalog.find(id)
      try conditions.require(revision: job.revision, of: "job \(id)")
      guard !job.state.isEnded else {
        throw DomainError(.jobFinished, "job \(id) has ended: it is \(job.state.rawValue)")
      }
      var changed = job
      try change(&changed, view)
      return (job, changed)
    }
    return try await answering(conditions) {
      try await self.change(conditions) { view in
        let (job, next) = try checked(view)
        return Plan(
          action: "\(verb)-job", steps: ["take job \(id) from \(job.state.rawValue) to \(next.state.rawValue)"],
          resource: .job(id, next: next.state))
      } apply: { transaction in
        var (before, job) = try checked(transaction.view)
        guard job != before else { return job }
        if job.state == .cancelling { (job.waitingFor, job.pausedUntil) = (nil, nil) }
        if job.state == .cancelled {
          job.finishedAt = transaction.now
          job.waitingFor = nil
          try transaction.giveUp(id, why: "the job was cancelled before it began")
        }
        return try transaction.update(job)
      }
    }
  }

  /// With the progress of now, if it runs.
  private func live(_ job: Job) -> Job {
    guard !job.state.isEnded, let live = queue.liveJobs[job.id] else { return job }
    var job = job
    let progress = live.progress
    if progress.total > 0 { job.progress = progress }
    return job
  }

  private static func notPausable(_ job: Job, _ why: String) -> DomainError {
    DomainError(.jobNotPausable, "job \(job.id) can't be paused or resumed: \(why)")
  }
}
