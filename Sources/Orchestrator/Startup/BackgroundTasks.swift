import Locks
import Model

/// Pieces of work that go on by themselves, and that may be waited for.
///
/// Their number is bounded by what they are about: the images, repositories and exports of the catalog.
final class BackgroundTasks: Sendable {
  private struct State {
    var nextID = 0
    var tasks: [Int: Task<Void, Never>] = [:]
    var isCancelled = false
  }

  private let state = Lock(State())
  private let ended = ChangeSignal()
  private let time: any TimeSource

  init(_ time: any TimeSource) { self.time = time }

  var isUnderWay: Bool { state.withLock { !$0.tasks.isEmpty } }

  /// Begins the work, unless all was cancelled.
  func begin(_ work: @Sendable @escaping () async -> Void) {
    state.withLock { state in
      guard !state.isCancelled else { return }
      let id = state.nextID
      state.nextID += 1
      state.tasks[id] = Task {
        await work()
        end(id)
      }
    }
  }

  /// Begins the work on each item: `count` at a time, but one that takes longer than `turn` lets the next begin beside
  /// it, so that no number of hung ones keeps the rest from its turn.
  func begin<Item: Sendable>(
    onEach items: [Item], atMost count: Int, turn: Duration, _ work: @Sendable @escaping (Item) async -> Void
  ) {
    let turns = Turns(count)
    begin { [self] in
      for item in items {
        guard await turns.take() else { return }
        let turn = Turn(turns, until: time.instant + turn, by: time)
        begin {
          await work(item)
          turn.end()
        }
      }
    }
  }

  /// What the work comes to, if that is within `limit`; the work goes on all the same.
  static func result<Result: Sendable>(
    within limit: Duration, by time: any TimeSource, _ work: @Sendable @escaping () async -> Result
  ) async -> Result? {
    let result = Lock<Result?>(nil)
    try? await BackgroundTasks(time).begin(waitingUntil: time.instant + limit) {
      let found = await work()
      result.withLock { $0 = found }
    } late: { _ in
    }
    return result.withLock { $0 }
  }

  /// Begins the work and waits for it until `deadline`. Throws what it throws by then; what it throws later is given to
  /// `late`.
  func begin(
    waitingUntil deadline: ContinuousClock.Instant, _ work: @Sendable @escaping () async throws -> Void,
    late: @Sendable @escaping (any Error) -> Void
  ) async throws {
    let attempt = Lock(Attempt.underWay)
    let changed = ChangeSignal()
    begin {
      var failure: (any Error)?
      do { try await work() } catch { failure = error }
      let wasAbandoned = attempt.withLock { attempt in
        if case .abandoned = attempt { return true }
        attempt = .ended(failure)
        return false
      }
      if wasAbandoned, let failure { late(failure) }
      changed.raise()
    }
    while true {
      let seen = changed.version
      let now = attempt.withLock { attempt in
        if case .underWay = attempt, time.instant >= deadline { attempt = .abandoned }
        return attempt
      }
      switch now {
      case .underWay: await changed.wait(beyond: seen, until: deadline, by: time)
      case .abandoned, .ended(nil): return
      case .ended(let failure?): throw failure
      }
    }
  }

  private enum Attempt {
    case underWay, abandoned
    case ended((any Error)?)
  }

  /// Returns when nothing is under way, at the latest at `deadline`.
  func wait(until deadline: ContinuousClock.Instant) async {
    while time.instant < deadline {
      let seen = ended.version
      guard isUnderWay else { return }
      await ended.wait(beyond: seen, until: deadline, by: time)
    }
  }

  /// Asks all of it to end, and begins nothing any more.
  func cancel() {
    let tasks = state.withLock { state in
      state.isCancelled = true
      return state.tasks.values
    }
    for task in tasks { task.cancel() }
  }

  private func end(_ id: Int) {
    state.withLock { $0.tasks[id] = nil }
    ended.raise()
  }
}

/// A number of turns that are taken and given back.
private final class Turns: Sendable {
  private let free: Lock<Int>
  private let returned = ChangeSignal()

  init(_ count: Int) { free = Lock(count) }

  /// False if the task was cancelled.
  func take() async -> Bool {
    while !Task.isCancelled {
      let seen = returned.version
      let isTaken = free.withLock { free in
        guard free > 0 else { return false }
        free -= 1
        return true
      }
      if isTaken { return true }
      await returned.wait(beyond: seen)
    }
    return false
  }

  func giveBack() {
    free.withLock { $0 += 1 }
    returned.raise()
  }
}

/// One turn, which ends once: when the work has, or when its time is up.
private final class Turn: Sendable {
  private let turns: Turns
  private let isOver = Lock(false)
  private let timer = Lock<Task<Void, Never>?>(nil)

  init(_ turns: Turns, until deadline: ContinuousClock.Instant, by time: any TimeSource) {
    self.turns = turns
    timer.withLock { timer in
      timer = Task { [weak self] in
        try? await time.sleep(until: deadline)
        self?.end()
      }
    }
  }

  func end() {
    let isFirst = isOver.withLock { isOver in
      defer { isOver = true }
      return !isOver
    }
    guard isFirst else { return }
    timer.withLock { $0 }?.cancel()
    turns.giveBack()
  }
}
