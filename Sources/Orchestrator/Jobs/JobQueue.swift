import Locks
import Logging
import Model

/// Which job runs when.
///
/// Q1. A job is here from its commit as `queued` until its end is committed (or can't be for now).
/// Q2. It starts when fewer than `concurrentJobs` run and nothing it claims is excluded by a running job or by an
///     earlier waiting one: no job overtakes one that it excludes, so none starves.
///     The same goes for what a ``ClaimHold`` excludes.
/// Q3. Its row says what it waits for, in words, as long as it waits.
/// Q4. At most `queuedJobs` wait; a place is taken before a job is committed.
/// Q5. The rows decide: who starts a job finds in its transaction whether it was cancelled meanwhile.
/// Q6. It starts after the first look since the start at each image and repository that it claims.
actor JobQueue {
  private struct Waiting {
    var job: Job
    var live: LiveJob
    var claims: [JobClaim]
  }

  private let runner: JobRunner
  private let ledger: Ledger
  private let limits: ServiceLimits
  /// Jobs in flight, for those who can't wait for the actor.
  nonisolated let liveJobs = LiveJobs()

  private var placesTaken = 0
  private var waiting: [Waiting] = []
  private var running: [JobID: Waiting] = [:]
  private var holds: [ULID: ClaimHold] = [:]
  /// Images and repositories that the start left to be looked at later.
  private var unseen: Set<JobClaim.Subject> = []
  /// Ends that the catalog didn't take. At most one per job that ran while it failed.
  private var unsettled: [JobID: JobEnd] = [:]
  private var settler: Task<Void, Never>?
  private var isStopping = false
  private let idle = ChangeSignal()

  private var wordsWanted: [JobID: String] = [:]
  private var wordsTold: [JobID: String] = [:]
  private var isTelling = false

  init(runner: JobRunner, ledger: Ledger, limits: ServiceLimits) {
    self.runner = runner
    self.ledger = ledger
    self.limits = limits
  }

  // MARK: In and out

  /// Takes a place for a job that is about to be committed.
  func takePlace() throws(DomainError) {
    guard !isStopping else {
      throw DomainError(.stopping, "the server is stopping", remedy: "ask again when it is up")
    }
    guard waiting.count + placesTaken < limits.queuedJobs else {
      throw DomainError(
        .queueFull, "\(limits.queuedJobs) jobs are waiting already",
        remedy: "ask again when some have ended, or cancel some")
    }
    placesTaken += 1
  }

  /// Gives back the place of a job that wasn't committed.
  func leavePlace() { placesTaken -= 1 }

  /// Lets the job in at the place taken for it.
  func enter(_ job: Job, legs: [UInt64], claims: [JobClaim]) async {
    placesTaken -= 1
    guard !isStopping else { return await runner.interrupt(job.id) }
    let live = LiveJob(job, legs: legs, clock: ledger.clock, limits: limits)
    liveJobs.add(live)
    waiting.append(Waiting(job: job, live: live, claims: claims))
    startWhatCan()
  }

  /// Takes out a job that was cancelled before it started.
  func leave(_ job: JobID) {
    guard let index = waiting.firstIndex(where: { $0.job.id == job }) else { return }
    waiting.remove(at: index)
    liveJobs.remove(job)
    startWhatCan()
  }

  /// Lets no job start that the hold excludes while `body` works. What runs already is told by the jobs' rows.
  nonisolated func holding<Result: Sendable>(
    _ hold: ClaimHold, _ body: () async throws -> Result
  ) async throws -> Result {
    await add(hold)
    do {
      let result = try await body()
      await remove(hold)
      return result
    } catch {
      await remove(hold)
      throw error
    }
  }

  private func add(_ hold: ClaimHold) { holds[hold.id] = hold }

  private func remove(_ hold: ClaimHold) {
    holds[hold.id] = nil
    startWhatCan()
  }

  /// Jobs on these wait until they have been ``seen(_:)``.
  func awaitLooks(at subjects: some Sequence<JobClaim.Subject>) { unseen.formUnion(subjects) }

  func seen(_ subject: JobClaim.Subject) {
    if unseen.remove(subject) != nil { startWhatCan() }
  }

  /// Ends everything: what waits at once, what runs at its next checkpoint, or not at all within `grace`. What hasn't
  /// ended by then is interrupted as far as the catalog knows, and start-up recovery finds out what it came to.
  func stop(grace: Duration) async {
    isStopping = true
    let dropped = waiting
    waiting = []
    for entry in dropped { await runner.interrupt(entry.job.id) }
    for entry in dropped { liveJobs.remove(entry.job.id) }
    for entry in running.values { entry.live.stop(.stopping) }
    let deadline = ContinuousClock.now + grace
    while !running.isEmpty, ContinuousClock.now < deadline {
      await idle.wait(beyond: idle.version, until: deadline)
    }
    settler?.cancel()
    for id in running.keys { await runner.interrupt(id, leavingBackups: true) }
    await settleRest()
  }

  // MARK: Running

  private func startWhatCan() {
    guard !isStopping else { return }
    var kept: [Waiting] = []
    for entry in waiting {
      if let obstacle = obstacle(for: entry, behind: kept) {
        wordsWanted[entry.job.id] = obstacle
        kept.append(entry)
      } else {
        start(entry)
      }
    }
    waiting = kept
    let ids = Set(kept.map(\.job.id))
    wordsWanted = wordsWanted.filter { ids.contains($0.key) }
    wordsTold = wordsTold.filter { ids.contains($0.key) }
    tellWaiting()
  }

  /// What the entry waits for; nil if it can start.
  private func obstacle(for entry: Waiting, behind earlier: [Waiting]) -> String? {
    for other in running.values.sorted(by: { $0.job.id < $1.job.id }) + earlier {
      guard let claim = Self.conflict(entry.claims, other.claims) else { continue }
      return "the \(other.job.request.kind.rawValue) job \(other.job.id), which "
        + (claim.isAlone ? "has \(claim.words) to itself" : "uses \(claim.words)")
    }
    if let claim = entry.claims.first(where: { unseen.contains($0.subject) }) {
      return "the first look at \(claim.words) since the start"
    }
    for hold in holds.values where Self.conflict(entry.claims, hold.claims) != nil { return hold.words }
    return running.count < limits.concurrentJobs ? nil : "a free place: \(limits.concurrentJobs) jobs run at a time"
  }

  /// The one of `theirs` that is in the way of `claims`.
  static func conflict(_ claims: [JobClaim], _ theirs: [JobClaim]) -> JobClaim? {
    theirs.first { other in claims.contains { $0.excludes(other) } }
  }

  private func start(_ entry: Waiting) {
    running[entry.job.id] = entry
    Task {
      let unsettled = await runner.run(entry.job.id, entry.live)
      await ended(entry.job.id, unsettled)
    }
  }

  private func ended(_ job: JobID, _ end: JobEnd?) async {
    running[job] = nil
    liveJobs.remove(job)
    idle.raise()
    startWhatCan()
    await settleRest()
    guard let end else { return }
    unsettled[job] = end
    if settler == nil, !isStopping { settler = Task { await settleLater() } }
  }

  /// Tries again now and then, until all ends are committed or the attempts are used up.
  private func settleLater() async {
    for _ in 0..<limits.lateAttempts {
      do { try await Task.sleep(for: limits.lateInterval) } catch { break }
      await settleRest()
      if unsettled.isEmpty { break }
    }
    settler = nil
  }

  /// Tries again to commit how jobs ended.
  private func settleRest() async {
    for (id, end) in unsettled where await runner.settleOnce(id, end) { unsettled[id] = nil }
  }

  // MARK: What jobs wait for

  private func tellWaiting() {
    guard !isTelling else { return }
    isTelling = true
    Task { await tell() }
  }

  private func tell() async {
    while true {
      let news = wordsWanted.filter { wordsTold[$0.key] != $0.value }
      guard !news.isEmpty else { break }
      wordsTold.merge(news) { _, new in new }
      // A failure is made up for when the words change; the job itself isn't touched by it.
      try? await ledger.write { catalog, now in
        for (id, words) in news {
          guard var job = try catalog.job(id), job.state == .queued, job.waitingFor != words else { continue }
          job.waitingFor = words
          try catalog.announce(.jobChanged, catalog.update(job), at: now)
        }
      }
    }
    isTelling = false
  }
}

/// The jobs in flight by id. Bounded by the queue.
final class LiveJobs: Sendable {
  private let jobs = Lock<[JobID: LiveJob]>([:])

  subscript(id: JobID) -> LiveJob? { jobs.withLock { $0[id] } }
  /// Each with its kind and id.
  var titles: [String] { jobs.withLock { $0.values.map(\.title) }.sorted() }
  func add(_ job: LiveJob) { jobs.withLock { $0[job.job] = job } }
  func remove(_ id: JobID) { jobs.withLock { $0[id] = nil } }
}
