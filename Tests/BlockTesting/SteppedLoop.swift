import BlockCore

/// A home loop that runs nothing by itself: the test takes each turn, and the seed says in which order jobs run and which
/// request ends next. The same seed gives the same story.
///
/// Everything of a story is started with ``start(_:)`` before or within ``run(until:)``, on one thread.
package final class SteppedLoop: TaskExecutor, SerialExecutor, HomeLoop, @unchecked Sendable {
  // Safe to hand over: the thread of the test alone runs it and what runs on it.

  private actor Home {
    nonisolated let loop: SteppedLoop
    nonisolated var unownedExecutor: UnownedSerialExecutor { loop.asUnownedSerialExecutor() }

    init(_ loop: SteppedLoop) { self.loop = loop }

    func run(_ work: @Sendable () async -> Void) async { await work() }
  }

  private static let story = "story"

  private struct Timer {
    let deadline: ContinuousClock.Instant
    let action: @Sendable () -> Void
  }

  package private(set) var now = ContinuousClock.now
  /// Requests that wait for their turn.
  private var held: [Held] = []
  private var jobs: [UnownedJob] = []
  private var turnCount = 0
  private var timers: [Timer] = []
  private var random: SeededRandom
  private let usesActors: Bool
  /// Requests that never end are the ones for which this holds.
  package var isHung: (HeldRequest) -> Bool = { _ in false }
  /// One in so many turns the clock goes on to the next timer although requests could end; 0: none.
  package var impatience = 0

  /// One request in so many lags behind others, by so many turns at most.
  private static let (lagRarity, longestLag) = (8, 400)

  private struct Held {
    let request: HeldRequest
    /// The turn from which it may go on.
    let earliest: Int
    let continuation: UnsafeContinuation<Void, Never>
  }

  /// - Parameter usesActors: whether work runs on an actor, or only prefers the loop, as both are found in the program.
  package init(seed: UInt64, usesActors: Bool = true) {
    random = SeededRandom(seed: seed)
    self.usesActors = usesActors
  }

  // MARK: What runs on it

  package func start(_ work: @Sendable @escaping () async -> Void) {
    guard usesActors else {
      Task(executorPreference: self) { await work() }
      return
    }
    let home = Home(self)
    Task(executorPreference: self) { await home.run(work) }
  }

  package func offload(_ work: @Sendable @escaping () -> Void) async {
    await breathe()
    work()
  }

  package func after(_ delay: Duration, _ action: @Sendable @escaping () -> Void) {
    timers.append(Timer(deadline: now + delay, action: action))
  }

  /// Waits until the schedule has this request go on.
  package func hold(_ request: HeldRequest) async {
    let lag = random.oneIn(Self.lagRarity) ? random.below(Self.longestLag) : 0
    await withUnsafeContinuation {
      held.append(Held(request: request, earliest: turnCount + lag, continuation: $0))
    }
  }

  /// Lets others go on.
  package func breathe() async {
    await hold(HeldRequest(device: Self.story, operation: .flush, range: ByteRange(offset: 0, length: 0)))
  }

  /// A number that the story draws.
  package func draw(below bound: Int) -> Int { random.below(bound) }

  // MARK: Turns

  /// Takes turns until `isDone` holds.
  /// - Throws: if nothing can go on before.
  package func run(until isDone: () -> Bool) throws {
    runJobs()
    while !isDone() {
      guard turn() else { throw ConformanceFailure("nothing goes on: \(held.count) requests hang, \(random)") }
      runJobs()
    }
  }

  /// Lets one request go on, or the clock. False if there is neither.
  private func turn() -> Bool {
    turnCount += 1
    let able = held.indices.filter { !isHung(held[$0].request) }
    // A story that looks again and again keeps nobody waiting.
    let isIdle = able.allSatisfy { held[$0].request.device == Self.story }
    if isIdle && (able.isEmpty || random.oneIn(2)), fireTimer() { return true }
    guard let first = able.min(by: { held[$0].earliest < held[$1].earliest }) else { return false }
    if impatience > 0, random.oneIn(impatience), fireTimer() { return true }
    let ready = able.filter { held[$0].earliest <= turnCount }
    let next = ready.isEmpty ? first : ready[random.below(ready.count)]
    held.remove(at: next).continuation.resume()
    return true
  }

  private func fireTimer() -> Bool {
    guard let next = timers.indices.min(by: { timers[$0].deadline < timers[$1].deadline }) else { return false }
    let timer = timers.remove(at: next)
    now = max(now, timer.deadline)
    start { timer.action() }
    return true
  }

  private func runJobs() {
    while !jobs.isEmpty {
      let job = jobs.remove(at: random.below(jobs.count))
      job.runSynchronously(isolatedTo: asUnownedSerialExecutor(), taskExecutor: asUnownedTaskExecutor())
    }
  }

  // MARK: Executor

  package func enqueue(_ job: consuming ExecutorJob) { jobs.append(UnownedJob(job)) }
  package func checkIsolated() {}
  package func isIsolatingCurrentContext() -> Bool? { true }
}

/// A request that a ``HeldDevice`` keeps back.
package struct HeldRequest: Sendable {
  package let device: String
  package let operation: BlockError.Operation
  package let range: ByteRange
}
