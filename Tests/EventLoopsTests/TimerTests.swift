import EventLoops
import Glibc
import Locks
import Testing

@Suite struct TimerTests {
  @Test(arguments: backends) func timersEndInOrderOfTheirDeadlines(_ backend: IOBackend) async throws {
    let order = try await onLoop(backend) { loop in
      let order = Lock<[Int]>([])
      try await withThrowingTaskGroup(of: Void.self) { tasks in
        for milliseconds in [40, 10, 30, 20, 0] {
          tasks.addTask {
            try await loop.sleep(for: .milliseconds(milliseconds))
            order.withLock { $0.append(milliseconds) }
          }
        }
        try await tasks.waitForAll()
      }
      return order.withLock { $0 }
    }
    #expect(order == [0, 10, 20, 30, 40])
  }

  @Test(arguments: backends) func sleepLastsAtLeastItsTime(_ backend: IOBackend) async throws {
    let slept = try await onLoop(backend) { loop in
      try await ContinuousClock().measure { try await loop.sleep(for: .milliseconds(25)) }
    }
    #expect(slept >= .milliseconds(25))
  }

  @Test(arguments: backends) func cancelledSleepEndsPromptly(_ backend: IOBackend) async throws {
    try await withLoops(backend) { group in
      let loop = group.next()
      let clock = ContinuousClock()
      let start = clock.now
      let task = Task {
        try await loop.run {
          do throws(SystemError) { try await loop.sleep(for: .seconds(3600)) } catch { return error.isCancelled }
          return false
        }
      }
      try await Task.sleep(for: .milliseconds(20))
      task.cancel()
      let found = try await task.value
      #expect(found)
      #expect(clock.now - start < .seconds(600))
    }
  }

  @Test(arguments: backends) func sleepOfACancelledTaskEndsAtOnce(_ backend: IOBackend) async throws {
    try await onLoop(backend) { loop in
      try await withThrowingTaskGroup(of: Void.self) { tasks in
        tasks.cancelAll()
        tasks.addTask {
          await #expect(throws: SystemError.cancelled) { try await loop.sleep(for: .seconds(3600)) }
        }
        try await tasks.waitForAll()
      }
    }
  }

  /// Time-outs that nearly never come: many long timers cancelled among short ones that end.
  @Test(arguments: backends) func abandonedTimersDoNotDisturbOthers(_ backend: IOBackend) async throws {
    let counts = try await onLoop(backend) { loop in
      await withTaskGroup(of: Bool.self) { tasks in
        var (ended, cancelled) = (0, 0)
        for _ in 0..<3 {
          await withTaskGroup(of: Bool.self) { inner in
            for index in 0..<1000 {
              inner.addTask {
                do throws(SystemError) {
                  try await loop.sleep(for: .seconds(1000 + index))
                  return true
                } catch { return false }
              }
            }
            await Task.yield()
            inner.cancelAll()
            for await isEnded in inner where !isEnded { cancelled += 1 }
          }
        }
        for index in 0..<500 {
          tasks.addTask { (try? await loop.sleep(for: .microseconds(index * 20))) != nil }
        }
        for await isEnded in tasks where isEnded { ended += 1 }
        return [ended, cancelled]
      }
    }
    #expect(counts == [500, 3000])
  }
}
