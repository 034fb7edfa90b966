import Locks
import Testing

struct AsyncMutexTests {
  /// Lets tasks pass one by one, in the order of their numbers.
  private final class Trace: Sendable {
    private let state = Lock<(steps: [String], waiters: [CheckedContinuation<Void, Never>], isOpen: Bool)>(
      ([], [], false))

    func add(_ step: String) { state.withLock { $0.steps.append(step) } }
    var steps: [String] { state.withLock { $0.steps } }

    /// Waits for ``open()``.
    func pass() async {
      await withCheckedContinuation { continuation in
        let isOpen = state.withLock { state in
          if !state.isOpen { state.waiters.append(continuation) }
          return state.isOpen
        }
        if isOpen { continuation.resume() }
      }
    }

    func open() {
      let waiters = state.withLock { state in
        state.isOpen = true
        defer { state.waiters = [] }
        return state.waiters
      }
      for waiter in waiters { waiter.resume() }
    }

    func expect(_ steps: [String]) async throws {
      for _ in 0..<2000 where self.steps != steps { try await Task.sleep(for: .milliseconds(1)) }
      #expect(self.steps == steps)
    }
  }

  @Test func whatHangsHoldsUpItsOwnKeyOnly() async throws {
    let (mutex, trace) = (AsyncMutex<Int>(limit: 10), Trace())
    async let hung: Void = mutex.withLock(1) {
      trace.add("in 1")
      await trace.pass()
      trace.add("out 1")
    }
    try await trace.expect(["in 1"])
    async let next: Void = mutex.withLock(1) { trace.add("next 1") }
    try await mutex.withLock(2) { trace.add("in 2") }
    #expect(trace.steps == ["in 1", "in 2"])
    trace.open()
    _ = try await (hung, next)
    #expect(trace.steps == ["in 1", "in 2", "out 1", "next 1"])
    #expect(!mutex.isHeld)
  }

  @Test func beyondTheLimitIsRefusedAndMayComeAgain() async throws {
    let (mutex, trace) = (AsyncMutex<Int>(limit: 1), Trace())
    async let held: Void = mutex.withLock(1) {
      trace.add("held")
      await trace.pass()
    }
    try await trace.expect(["held"])
    let waits = Task { try await mutex.withLock(1) { trace.add("waited") } }
    // Which of the two waits and which is refused is theirs to find out.
    let other = Task { try await mutex.withLock(1) { trace.add("waited") } }
    try await Task.sleep(for: .milliseconds(20))
    trace.open()
    _ = try await held
    let refusals = [await waits.result, await other.result].compactMap { result -> AsyncMutex<Int>.Refusal? in
      if case .failure(let error) = result { error as? AsyncMutex<Int>.Refusal } else { nil }
    }
    #expect(refusals == [.full])
    #expect(trace.steps == ["held", "waited"])
    try await mutex.withLock(1) { trace.add("again") }
    #expect(trace.steps.last == "again")
  }

  @Test func closedItRefusesWhatWaitsAndLetsTheRestEnd() async throws {
    let (released, trace) = (Lock(0), Trace())
    let mutex = AsyncMutex<Int>(limit: 10) { released.withLock { $0 += 1 } }
    async let held: Void = mutex.withLock(1) {
      trace.add("held")
      await trace.pass()
    }
    try await trace.expect(["held"])
    let waits = Task { try await mutex.withLock(1) { trace.add("waited") } }
    try await Task.sleep(for: .milliseconds(20))
    mutex.close()
    await #expect(throws: AsyncMutex<Int>.Refusal.closed) { try await waits.value }
    await #expect(throws: AsyncMutex<Int>.Refusal.closed) { try await mutex.withLock(2) {} }
    #expect(mutex.isHeld && released.withLock { $0 } == 0)
    trace.open()
    _ = try await held
    #expect(!mutex.isHeld && released.withLock { $0 } == 1)
    #expect(trace.steps == ["held"])
  }

  @Test func manyTasksPassOneAtATime() async throws {
    let mutex = AsyncMutex<SoleKey>()
    let (inside, most) = (Lock(0), Lock(0))
    await withTaskGroup(of: Void.self) { group in
      for _ in 0..<200 {
        group.addTask {
          await mutex.withLock {
            let now = inside.withLock { inside in
              inside += 1
              return inside
            }
            most.withLock { $0 = max($0, now) }
            await Task.yield()
            inside.withLock { $0 -= 1 }
          }
        }
      }
    }
    #expect(most.withLock { $0 } == 1)
    #expect(!mutex.isHeld)
  }
}
