import Dispatch
import GRDB
import Glibc
import Locks
import Model

/// The changes that wait for their turn at the catalog's one writer, in the order of arrival.
///
/// Q1. A change that hasn't begun at its deadline never begins: its caller is told so, and nothing is stored.
/// Q2. One that has begun waits for a foreign lock until its deadline. From then on it is carried to its end, however
///     long the disk takes: only so is its outcome known.
final class WriteQueue: Sendable {
  struct Entry: Sendable {
    let deadline: ContinuousClock.Instant
    let run: @Sendable (Database) -> Void
    /// Called instead of `run` when the deadline has passed.
    let refuse: @Sendable () -> Void
  }

  private struct State {
    var entries: [Entry] = []
    var isDraining = false
    var isTimed = false
  }

  /// Between two looks for entries whose deadline has passed.
  private static let sweepInterval = DispatchTimeInterval.milliseconds(100)

  private let pool: DatabasePool
  private let state = Lock(State())

  init(_ pool: DatabasePool) { self.pool = pool }

  func submit(_ entry: Entry) {
    let (mustDrain, mustTime) = state.withLock { state in
      state.entries.append(entry)
      defer { (state.isDraining, state.isTimed) = (true, true) }
      return (!state.isDraining, !state.isTimed)
    }
    if mustDrain { pool.asyncWriteWithoutTransaction { [self] in drain($0) } }
    if mustTime { sweepLater() }
  }

  /// On the writer's thread.
  private func drain(_ database: Database) {
    while let entry = next() {
      if ContinuousClock.now >= entry.deadline { entry.refuse() } else { entry.run(database) }
    }
  }

  private func next() -> Entry? {
    state.withLock { state in
      guard state.entries.isEmpty else { return state.entries.removeFirst() }
      state.isDraining = false
      return nil
    }
  }

  // MARK: Deadlines

  private func sweepLater() {
    DispatchQueue.global().asyncAfter(deadline: .now() + Self.sweepInterval) { [self] in sweep() }
  }

  private func sweep() {
    let now = ContinuousClock.now
    let (late, isTimed) = state.withLock { state in
      let late = state.entries.filter { $0.deadline <= now }
      if !late.isEmpty { state.entries.removeAll { $0.deadline <= now } }
      state.isTimed = !state.entries.isEmpty
      return (late, state.isTimed)
    }
    late.forEach { $0.refuse() }
    if isTimed { sweepLater() }
  }
}

/// How long a statement waits for a lock that another program holds.
enum LockWait {
  /// Of the change that runs on this thread; nil elsewhere.
  @TaskLocal static var deadline: ContinuousClock.Instant?

  private static let pauseMicroseconds: UInt32 = 5000

  /// SQLite's busy handler: waits a little; false gives up.
  /// - Parameter limit: for statements that have no deadline, in seconds.
  static func goesOn(tries: Int, limit: Double) -> Bool {
    let isOver =
      deadline.map { ContinuousClock.now >= $0 } ?? (Double(tries) * Double(pauseMicroseconds) / 1e6 >= limit)
    if !isOver { usleep(pauseMicroseconds) }
    return !isOver
  }
}
