import Foundation
import Model

extension BackupService {
  /// The job as the catalog has it, with its progress as of now.
  package func job(_ id: JobID) throws -> Job { live(try ledger.read { try find(id, in: $0) }) }

  package func jobs(_ filter: JobFilter, _ page: PageRequest) throws -> Page<Job> {
    try ledger.read { try $0.jobs(filter, page) }.map(live)
  }

  package func jobLog(_ id: JobID, _ page: PageRequest) throws -> Page<JobLogEntry> {
    try ledger.read { catalog in
      _ = try find(id, in: catalog)
      return try catalog.jobLog(id, page)
    }
  }

  /// Waits at most `wait` (and `ServiceLimits.longestWait`) for the job to end; with a `knownRevision`, for it to have
  /// another revision, nil telling that it hasn't. No thread waits. Progress alone is no new revision.
  package func job(_ id: JobID, wait: Duration, knownRevision: Int? = nil) async throws -> Job? {
    let deadline = ContinuousClock.now + min(wait, limits.longestWait)
    while true {
      let seen = ledger.commits.version
      let job = try job(id)
      if let knownRevision {
        if job.revision != knownRevision { return job }
      } else if job.state.isEnded {
        return job
      }
      let isOver = ContinuousClock.now >= deadline || Task.isCancelled || ledger.commits.isClosed
      if isOver || job.state.isEnded { return knownRevision == nil ? job : nil }
      await ledger.commits.wait(beyond: seen, until: deadline)
    }
  }

  /// Ends a job that waits at once, and one that runs at its next checkpoint. Throws `jobFinished`.
  package func cancelJob(_ id: JobID, _ terms: Terms<Job> = Terms()) async throws -> Answer<Job> {
    let answer = try await step(id, terms, "cancel") { job in
      switch job.state {
      case .queued: .cancelled
      case .running, .paused: .cancelling
      default: job.state
      }
    }
    if case .done(let job) = answer {
      if job.state == .cancelled { await queue.leave(id) } else { queue.liveJobs[id]?.stop(.cancelled) }
    }
    return answer
  }

  /// Makes a running job stand still at its next checkpoint. Throws `jobNotPausable`, `jobFinished`.
  package func pauseJob(_ id: JobID, _ terms: Terms<Job> = Terms()) async throws -> Answer<Job> {
    let answer = try await step(id, terms, "pause") { job in
      guard job.request.isPausable else {
        throw Self.notPausable(job, "a \(job.request.kind.rawValue) job can't be paused")
      }
      return switch job.state {
      case .running, .paused: .paused
      case .queued: throw Self.notPausable(job, "it hasn't started")
      default: throw Self.notPausable(job, "it is being cancelled")
      }
    }
    if case .done(let job) = answer { queue.liveJobs[id]?.setPaused(true, revision: job.revision) }
    return answer
  }

  /// Lets a paused job go on. Throws `jobNotPausable`, `jobFinished`.
  package func resumeJob(_ id: JobID, _ terms: Terms<Job> = Terms()) async throws -> Answer<Job> {
    let answer = try await step(id, terms, "resume") { job in
      switch job.state {
      case .running, .paused: .running
      case .queued: throw Self.notPausable(job, "it hasn't started")
      default: throw Self.notPausable(job, "it is being cancelled")
      }
    }
    if case .done(let job) = answer { queue.liveJobs[id]?.setPaused(false, revision: job.revision) }
    return answer
  }

  // MARK: Parts

  /// Takes the job to the state that `next` says, in one transaction with its event. The same state is no change.
  private func step(
    _ id: JobID, _ terms: Terms<Job>, _ verb: String, to next: @Sendable @escaping (Job) throws -> JobState
  ) async throws -> Answer<Job> {
    let checked: @Sendable (any CatalogReading) throws -> (Job, JobState) = { catalog in
      let job = try find(id, in: catalog)
      try require(terms.expectedRevision, is: job.revision, of: "job \(id)")
      guard !job.state.isEnded else {
        throw DomainError(.jobFinished, "job \(id) has ended: it is \(job.state.rawValue)")
      }
      return (job, try next(job))
    }
    return try await answering(terms) {
      try await change(terms) { catalog in
        let (job, next) = try checked(catalog)
        return Plan(
          action: "\(verb)-job", steps: ["take job \(id) from \(job.state.rawValue) to \(next.rawValue)"],
          resource: .object(["job": .string(id.description), "state": .string(next.rawValue)]))
      } apply: { catalog, now in
        var (job, next) = try checked(catalog)
        guard job.state != next else { return job }
        job.state = next
        if next == .cancelled {
          job.finishedAt = now
          job.waitingFor = nil
          try BackupRun.failUnended(of: id, why: "the job was cancelled before it began", in: catalog, at: now)
        }
        job = try catalog.update(job)
        try catalog.announce(.jobChanged, job, at: now)
        return job
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

extension JobRequest {
  /// Whether its work has checkpoints to stand still at.
  var isPausable: Bool {
    switch self {
    case .backup, .verify, .restore, .check: true
    case .deleteBackup, .rescan, .attach, .detach: false
    }
  }
}
