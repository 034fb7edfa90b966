import Locks
import Logging
import Model

/// Which job runs when.
///
/// Q1. A job is here from its commit as `queued` until its end is committed (or can't be for now).
/// Q2. It starts when fewer than `concurrentJobs` have a place and nothing it claims is excluded by a job that has begun
///     or by an earlier waiting one: no job overtakes one that it excludes, so none starves. An earlier one that waits
///     only for paused jobs doesn't count: it holds nothing up. The same goes for what a ``ClaimHold`` excludes.
/// Q3. Its row says what it waits for, in words, as long as it waits.
/// Q4. At most `queuedJobs` wait; a place is taken before a job is committed.
/// Q5. The rows decide: the start of a job finds in its transaction whether it was cancelled meanwhile.
/// Q6. It starts after the first look since the start at each image and repository that it claims.
/// Q7. A paused job keeps its claims and gives up its place. Resumed, it is `queued` until it has a place again, ahead of
///     those that haven't begun: what waits for its claims waits for its end. At most `pausedJobs` are paused.
actor JobQueue {
  private struct Waiting {
    var job: Job
    var live: LiveJob
    var claims: [JobClaim]
  }

  /// A job whose work has begun.
  private struct Begun {
    /// What Q2 looks at.
    var entry: Waiting
    /// Running, or going on in a moment.
    var hasPlace = true
    /// Resumed, and waiting for a place.
    var wantsPlace = false
    /// Of the job's row that the two follow from; news of an older one comes too late.
    var revision = 0

    var isPaused: Bool { !hasPlace && !wantsPlace }
  }

  private let runner: JobRunner
  private let transactions: CatalogTransactions
  private let limits: ServiceLimits
  /// Jobs in flight, for callers that can't wait for the actor.
  nonisolated let liveJobs = LiveJobs()

  private var placesTaken = 0
  private var waiting: [Waiting] = []
  private var begun: [JobID: Begun] = [:]
  private var holds: [ULID: ClaimHold] = [:]
  /// Images and repositories that the start left to be looked at later.
  private var unseen: Set<JobClaim.Subject> = []
  /// Ends that the catalog didn't take. At most one per job that ran while it failed.
  private var unsettled: [JobID: JobEnd] = [:]
  private var settler: Task<Void, Never>?
  /// At work while jobs pause for a time.
  private var resumer: Task<Void, Never>?
  private var isStopping = false
  private let idle = ChangeSignal()

  private var wordsWanted: [JobID: String] = [:]
  private var wordsTold: [JobID: String] = [:]
  private var isTelling = false

  init(runner: JobRunner, transactions: CatalogTransactions, limits: ServiceLimits) {
    self.runner = runner
    self.transactions = transactions
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
    let live = LiveJob(job, legs: legs, time: transactions.time, limits: limits)
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
    for job in begun.values { job.entry.live.stop(.stopping) }
    let deadline = transactions.time.instant + grace
    while !begun.isEmpty, transactions.time.instant < deadline {
      await idle.wait(beyond: idle.version, until: deadline, by: transactions.time)
    }
    settler?.cancel()
    resumer?.cancel()
    for id in begun.keys { await runner.interrupt(id, leavingBackups: true) }
    await settleRest()
  }

  // MARK: Running

  private func startWhatCan() {
    guard !isStopping else { return }
    goOnWithResumed()
    var kept: [Waiting] = []
    /// Those that nothing may overtake.
    var earlier: [Waiting] = []
    for entry in waiting {
      if let obstacle = obstacle(for: entry, behind: earlier) {
        wordsWanted[entry.job.id] = obstacle.words
        kept.append(entry)
        if !obstacle.isPause { earlier.append(entry) }
      } else {
        start(entry)
      }
    }
    waiting = kept
    let ids = Set(kept.map(\.job.id)).union(begun.values.filter(\.wantsPlace).map(\.entry.job.id))
    wordsWanted = wordsWanted.filter { ids.contains($0.key) }
    wordsTold = wordsTold.filter { ids.contains($0.key) }
    tellWaiting()
  }

  private struct Obstacle {
    var words: String
    /// Nothing but paused jobs is in the way.
    var isPause = false
  }

  private func obstacle(for entry: Waiting, behind earlier: [Waiting]) -> Obstacle? {
    let all = begun.values.sorted { $0.entry.job.id < $1.entry.job.id }
    for other in all.filter({ !$0.isPaused }).map(\.entry) + earlier {
      if let claim = Self.conflict(entry.claims, other.claims) { return Obstacle(words: Self.words(other.job, claim)) }
    }
    if let words = otherObstacle(for: entry) { return Obstacle(words: words) }
    for other in all.filter(\.isPaused).map(\.entry) {
      guard let claim = Self.conflict(entry.claims, other.claims) else { continue }
      return Obstacle(
        words: "\(Self.words(other.job, claim)), and is paused: resume or cancel that one", isPause: true)
    }
    return placesLeft > 0 ? nil : Obstacle(words: fullWords)
  }

  private static func words(_ job: Job, _ claim: JobClaim) -> String {
    "the \(job.request.kind.rawValue) job \(job.id), which "
      + (claim.isAlone ? "has \(claim.words) to itself" : "uses \(claim.words)")
  }

  private var placesLeft: Int { limits.concurrentJobs - begun.values.count { $0.hasPlace } }

  private var fullWords: String { "a free place: \(limits.concurrentJobs) jobs run at a time" }

  /// What stands in the entry's way and is no job.
  private func otherObstacle(for entry: Waiting) -> String? {
    if let claim = entry.claims.first(where: { unseen.contains($0.subject) }) {
      return "the first look at \(claim.words) since the start"
    }
    for hold in holds.values where Self.conflict(entry.claims, hold.claims) != nil { return hold.words }
    return nil
  }

  /// The one of `theirs` that is in the way of `claims`.
  static func conflict(_ claims: [JobClaim], _ theirs: [JobClaim]) -> JobClaim? {
    theirs.first { other in claims.contains { $0.excludes(other) } }
  }

  private func start(_ entry: Waiting) {
    begun[entry.job.id] = Begun(entry: entry)
    Task {
      let unsettled = await runner.run(entry.job.id, entry.live)
      await ended(entry.job.id, unsettled)
    }
  }

  // MARK: Pausing

  /// Takes over what the job's row says now. To be called after each commit that pauses, resumes or cancels one that
  /// has begun.
  func note(_ job: Job) {
    guard var known = begun[job.id], job.revision > known.revision else { return }
    known.revision = job.revision
    switch job.state {
    case .paused: (known.hasPlace, known.wantsPlace) = (false, false)
    case .queued: (known.hasPlace, known.wantsPlace) = (false, true)
    default: known.wantsPlace = false
    }
    begun[job.id] = known
    if job.state == .paused { known.entry.live.setPaused(true, revision: job.revision) }
    if job.pausedUntil != nil, resumer == nil, !isStopping { resumer = Task { await resumeInTime() } }
    startWhatCan()
  }

  /// Gives free places to jobs that were resumed, the oldest first.
  private func goOnWithResumed() {
    for job in begun.values.filter(\.wantsPlace).map(\.entry).sorted(by: { $0.job.id < $1.job.id }) {
      guard placesLeft > 0 else {
        wordsWanted[job.job.id] = fullWords
        continue
      }
      givePlace(true, to: job.job.id)
      Task { await goOn(job) }
    }
  }

  private func givePlace(_ isGiven: Bool, to job: JobID) {
    begun[job]?.hasPlace = isGiven
    begun[job]?.wantsPlace = !isGiven
  }

  private func goOn(_ entry: Waiting) async {
    let id = entry.job.id
    do {
      // Nil: it was paused or cancelled meanwhile, and that request tells it here.
      guard let job = try await runner.goOn(id) else { return }
      if let known = begun[id]?.revision, known < job.revision { begun[id]?.revision = job.revision }
      entry.live.setPaused(false, revision: job.revision)
    } catch {
      try? await transactions.time.sleep(for: limits.lateInterval)
      guard begun[id]?.hasPlace == true else { return }
      givePlace(false, to: id)
      startWhatCan()
    }
  }

  /// Resumes jobs whose pause is over, until none pauses for a time.
  private func resumeInTime() async {
    while !isStopping {
      do { try await transactions.time.sleep(for: limits.pauseInterval) } catch { break }
      guard let pauses = try? await runner.resumeOverdue() else { continue }
      for job in pauses.resumed { note(job) }
      if pauses.left == 0 { break }
    }
    resumer = nil
  }

  private func ended(_ job: JobID, _ end: JobEnd?) async {
    begun[job] = nil
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
      do { try await transactions.time.sleep(for: limits.lateInterval) } catch { break }
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
      try? await transactions.write { transaction in
        for (id, words) in news {
          guard var job = try transaction.catalog.job(id), job.state == .queued, job.waitingFor != words else {
            continue
          }
          job.waitingFor = words
          try transaction.update(job)
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
