import Foundation
import Logging
import Model

/// Carries a job from its start to its end.
///
/// What writes which step of `JobState.allows`, each with its event in one transaction:
///
///     queued → running                                    begin
///     queued → cancelled                                  BackupService.cancelJob
///     running, paused, queued¹ → cancelling               BackupService.cancelJob
///     running, queued¹ → paused; paused → queued          BackupService.pauseJob, resumeJob; resumeOverdue
///     queued¹ → running                                   goOn                     ¹ begun, and resumed
///     running, paused, cancelling → succeeded, failed     settle
///     queued → failed                                     settle, when the start itself failed
///     cancelling → cancelled                              settle
///     any that isn't ended → interrupted                  settle and interrupt at a stop, recovery at the start
///
/// R1. The rows that a job makes end with it: none stays `running` behind a job whose end was committed here.
/// R2. A commit that fails is tried again a bounded number of times; the end of the work isn't forgotten in between.
struct JobRunner: Sendable {
  let transactions: CatalogTransactions
  let engine: any BlockEngine
  let serving: Serving
  let limits: ServiceLimits
  let logger: Logger

  /// Runs the job. Returns its end if the catalog didn't take it.
  func run(_ id: JobID, _ live: LiveJob) async -> JobEnd? {
    let end: JobEnd
    do {
      guard let job = try await transactions.persistently({ try await begin(id) }) else { return nil }
      end = await whileTelling(live) { await work(job, live) }
    } catch {
      logger.error("a job can't be started", metadata: ["job": "\(id)", "error": "\(error)"])
      end = JobEnd(.failed(ProblemDetails(error))) { transaction in
        try transaction.giveUp(id, why: ProblemDetails(error).detail)
      }
    }
    return await settle(id, end, live)
  }

  // MARK: Start

  /// Nil if it was cancelled while it waited.
  private func begin(_ id: JobID) async throws -> Job? {
    try await transactions.write { transaction in
      guard var job = try transaction.catalog.job(id) else { return nil }
      // Begun already: the answer to the attempt before this one was lost.
      if job.state == .running { return job }
      guard job.state.allows(.running) else { return nil }
      job.state = .running
      job.startedAt = transaction.now
      job.waitingFor = nil
      job = try transaction.update(job)
      return job
    }
  }

  /// A resumed job has a place again. Nil if it was paused or cancelled meanwhile.
  func goOn(_ id: JobID) async throws -> Job? {
    try await transactions.persistently {
      try await transactions.write { transaction in
        guard var job = try transaction.catalog.job(id) else { return nil }
        // The answer to the attempt before this one was lost.
        if job.state == .running { return job }
        guard job.state == .queued else { return nil }
        (job.state, job.waitingFor) = (.running, nil)
        job = try transaction.update(job)
        return job
      }
    }
  }

  /// Resumes the paused jobs whose time is over. Returns them, and how many pause for a time still.
  func resumeOverdue() async throws -> (resumed: [Job], left: Int) {
    try await transactions.write { transaction in
      let paused = try allPages { try transaction.catalog.jobs(JobFilter(states: [.paused]), $0) }
      let timed = paused.compactMap { job in job.pausedUntil.map { (job, $0) } }
      var resumed: [Job] = []
      for (var job, until) in timed where until <= transaction.now {
        (job.state, job.pausedUntil) = (.queued, nil)
        job = try transaction.update(job)
        resumed.append(job)
      }
      return (resumed, timed.count - resumed.count)
    }
  }

  private func work(_ job: Job, _ live: LiveJob) async -> JobEnd {
    let context = JobContext(
      transactions: transactions, engine: engine, serving: serving, limits: limits, job: job, live: live)
    return await job.request.work.run(context)
  }

  // MARK: Meanwhile

  /// Shows and stores progress and log while `work` goes on; has stopped doing so when it returns.
  private func whileTelling(_ live: LiveJob, _ work: () async -> JobEnd) async -> JobEnd {
    let teller = Task { await tell(live) }
    let end = await work()
    teller.cancel()
    await teller.value
    transactions.feed.endTicks(of: live.job)
    return end
  }

  private func tell(_ live: LiveJob) async {
    var storedAt = transactions.time.instant
    var isUnstored = false
    while true {
      do { try await transactions.time.sleep(for: limits.tickInterval) } catch { return }
      let now = transactions.time.instant
      if let progress = live.sample(at: now) {
        transactions.feed.tick(live.job, progress)
        isUnstored = true
      }
      guard now - storedAt >= limits.storeInterval else { continue }
      if await store(live, progress: isUnstored) { isUnstored = false }
      storedAt = now
    }
  }

  /// A failure is made up for by the next time, at the latest by the end.
  private func store(_ live: LiveJob, progress isChanged: Bool) async -> Bool {
    let lines = live.takeLines()
    guard isChanged || !lines.isEmpty else { return true }
    let progress = live.progress
    do {
      try await transactions.write { transaction in
        if isChanged { try transaction.setProgress(progress, of: live.job) }
        Self.append(lines, to: live.job, in: transaction)
      }
      return true
    } catch {
      live.giveBack(lines)
      return false
    }
  }

  /// A line that is stored already is refused, and that is as it should be: the answer to its commit was lost.
  private static func append(_ lines: [JobLogEntry], to job: JobID, in transaction: CatalogTransaction) {
    for line in lines { try? transaction.append(line, to: job) }
  }

  // MARK: End

  private func settle(_ id: JobID, _ end: JobEnd, _ live: LiveJob) async -> JobEnd? {
    let progress = live.progress
    let lines = live.takeLines()
    do {
      try await transactions.persistently { try await commit(end, of: id, progress: progress, lines: lines) }
      return nil
    } catch {
      logger.critical(
        "the catalog doesn't take how a job ended; it is tried again later, and found out at the next start",
        metadata: ["job": "\(id)", "error": "\(error)"])
      return end
    }
  }

  /// One more attempt at an end that wasn't taken; returns whether it is now.
  func settleOnce(_ id: JobID, _ end: JobEnd) async -> Bool {
    do {
      try await commit(end, of: id, progress: nil, lines: [])
      return true
    } catch {
      return false
    }
  }

  private func commit(_ end: JobEnd, of id: JobID, progress: JobProgress?, lines: [JobLogEntry]) async throws {
    try await transactions.write { transaction in
      if let work = try transaction.catalog.job(id)?.request.work,
        let finding = RepositoryFinding(end.verdict, of: work),
        let repository = try work.repository(in: transaction.catalog)
      {
        try transaction.note(finding, of: repository, job: id)
      }
      try end.changes(transaction)
      guard var job = try transaction.catalog.job(id), !job.state.isEnded else { return }
      (job.state, job.error) = Self.final(
        job.state, end.verdict, try job.request.work.aftermath(of: job, in: transaction.catalog))
      job.result = end.result
      job.finishedAt = transaction.now
      (job.waitingFor, job.pausedUntil) = (nil, nil)
      job.progress = progress ?? job.progress
      // What is over goes at no rate.
      (job.progress.rate, job.progress.eta) = (0, nil)
      Self.append(lines, to: id, in: transaction)
      try transaction.update(job)
    }
  }

  private static func final(
    _ state: JobState, _ verdict: JobEnd.Verdict, _ aftermath: Aftermath?
  ) -> (JobState, ProblemDetails?) {
    let cancelled = ProblemDetails(DomainError(.cancelled, "it was cancelled"))
    return switch verdict {
    case .succeeded: (.succeeded, nil)
    // The engine's error says by itself what it means for the target.
    case .failed(let problem): (.failed, problem)
    case .stopped(.stopping): (.interrupted, aftermath?.added(to: .interrupted) ?? .interrupted)
    case .stopped(.cancelled):
      state.allows(.cancelled)
        ? (.cancelled, aftermath?.added(to: cancelled)) : (.failed, aftermath?.added(to: cancelled) ?? cancelled)
    }
  }

  /// Ends a job from outside, because the server stops.
  func interrupt(_ id: JobID, leavingBackups: Bool = false) async {
    do {
      try await transactions.persistently {
        try await transactions.write { transaction in
          guard var job = try transaction.catalog.job(id), job.state.allows(.interrupted) else { return }
          if !leavingBackups {
            try transaction.giveUp(id, why: "the server stopped before it began")
          }
          try job.interrupt(in: transaction)
          try transaction.update(job)
        }
      }
    } catch {
      logger.error(
        "a job can't be marked as interrupted; the next start does it",
        metadata: ["job": "\(id)", "error": "\(error)"])
    }
  }
}

extension CatalogTransaction {
  /// Ends the rows that the job was to make and hasn't ended.
  func giveUp(_ job: JobID, why: String) throws {
    try catalog.job(job)?.request.work.giveUp(job, why: why, in: self)
  }
}
