@testable import EventLoops
import Glibc
import Locks
import Testing

@Suite struct ShutdownTests {
  @Test(arguments: backends) func workInFlightIsDrained(_ backend: IOBackend) async throws {
    let folder = try TemporaryFolder()
    try folder.makeFile("a")
    let group = try EventLoopGroup(count: 2, backend: .forced(backend), workerCount: 1)
    let bytes = pattern(1 << 20)
    let started = Lock(0)
    let writers = (0..<8).map { index in
      Task {
        let loop = group.next()
        try await loop.run {
          started.withLock { $0 += 1 }
          let file = try folder.open(file: "a")
          try await loop.sleep(for: .milliseconds(10))
          try await loop.write(file, bytes.span.bytes, at: UInt64(index) << 20)
          _ = await group.workers.run { usleep(10_000) }
          try await loop.fdatasync(file)
        }
      }
    }
    while started.withLock({ $0 }) < writers.count { try await Task.sleep(for: .milliseconds(1)) }
    await group.shutdown()
    for writer in writers { try await writer.value }
    #expect(try folder.open(file: "a").status().byteCount == 8 << 20)
  }

  @Test(arguments: backends) func workUnderWayMayStillVisitOtherLoops(_ backend: IOBackend) async throws {
    let group = try EventLoopGroup(count: 2, backend: .forced(backend), workerCount: 1)
    let (near, far) = (group.loops[0], group.loops[1])
    let isInside = Lock(false)
    let task = Task {
      try await near.run {
        isInside.withLock { $0 = true }
        for _ in 0..<20 {
          try await near.sleep(for: .milliseconds(1))
          try await far.run { try await far.sleep(for: .milliseconds(1)) }
        }
        return near.isOnLoop
      }
    }
    while !isInside.withLock({ $0 }) { try await Task.sleep(for: .milliseconds(1)) }
    await group.shutdown()
    let isDone = try await task.value
    #expect(isDone)
  }

  @Test(arguments: backends) func afterShutdownNewWorkIsRefused(_ backend: IOBackend) async throws {
    let group = try EventLoopGroup(count: 1, backend: .forced(backend), workerCount: 1)
    await group.shutdown()
    await #expect(throws: SystemError.shutDown) { try await group.next().run {} }
    await group.shutdown()
    // What needs no loop still works.
    #expect(await group.workers.run { 42 } == 42)
  }

  @Test(arguments: backends) func waitsWithoutAnEndAreCancelledAfterTheGrace(_ backend: IOBackend) async throws {
    let folder = try TemporaryFolder()
    let group = try EventLoopGroup(count: 1, backend: .forced(backend), workerCount: 1)
    let loop = group.next()
    let isWaiting = Lock(false)
    let accepting = Task {
      try await loop.run {
        let listener = try Socket.listen(at: .unix(path: folder.file("socket")), on: loop)
        isWaiting.withLock { $0 = true }
        _ = try await listener.accept()
      }
    }
    // Outside the gate: started without `run`.
    let sleeping = Task(executorPreference: loop) { try await loop.sleep(for: .seconds(3600)) }
    while !isWaiting.withLock({ $0 }) { try await Task.sleep(for: .milliseconds(1)) }
    await group.shutdown(grace: .milliseconds(20))
    await #expect(throws: SystemError.cancelled) { try await accepting.value }
    await #expect(throws: SystemError.self) { try await sleeping.value }
  }

  @Test(arguments: backends) func jobsThatComeLateStillRun(_ backend: IOBackend) async throws {
    let group = try EventLoopGroup(count: 1, backend: .forced(backend), workerCount: 1)
    let loop = group.next()
    await group.shutdown()
    let lateCount = Lock(0)
    let tasks = (0..<50).map { _ in
      Task(executorPreference: loop) {
        #expect(loop.isOnLoop)
        await Task.yield()
        await #expect(throws: SystemError.shutDown) { try await loop.sleep(for: .zero) }
        lateCount.withLock { $0 += 1 }
      }
    }
    for task in tasks { await task.value }
    #expect(lateCount.withLock { $0 } == 50)
  }
}

@Suite struct WorkerPoolTests {
  @Test(arguments: backends) func callerResumesOnItsOwnLoop(_ backend: IOBackend) async throws {
    try await withLoops(backend) { group in
      let loop = group.next()
      let isRight = try await loop.run {
        var isRight = true
        for number in 0..<200 {
          let (answer, wasOnLoop) = await group.workers.run { (number * 2, loop.isOnLoop) }
          isRight = isRight && answer == number * 2 && !wasOnLoop && loop.isOnLoop
        }
        return isRight
      }
      #expect(isRight)
    }
  }

  @Test func allQueuedWorkRunsBeforeTheEnd() async throws {
    let pool = try WorkerPool(threadCount: 2)
    let doneCount = Lock(0)
    let task = Task {
      await withTaskGroup(of: Void.self) { tasks in
        for _ in 0..<3000 { tasks.addTask { await pool.run { doneCount.withLock { $0 += 1 } } } }
      }
    }
    while doneCount.withLock({ $0 }) == 0 { await Task.yield() }
    pool.shutdown()
    await task.value
    #expect(doneCount.withLock { $0 } == 3000)
  }

  @Test func noMoreThreadsThanAskedForWorkAtOnce() async throws {
    let pool = try WorkerPool(threadCount: 3)
    let (running, most) = (Lock(0), Lock(0))
    await withTaskGroup(of: Void.self) { tasks in
      for _ in 0..<30 {
        tasks.addTask {
          await pool.run {
            let count = running.withLock { count in
              count += 1
              return count
            }
            most.withLock { $0 = max($0, count) }
            usleep(2000)
            running.withLock { $0 -= 1 }
          }
        }
      }
    }
    #expect(most.withLock { $0 } <= 3)
    pool.shutdown()
  }

  /// A loop that can't watch its own waking ends in an error, and frees what it had taken once.
  @Test func aPortThatCannotStartGivesBackWhatItHas() throws {
    let calls = try BlockingCalls()
    let loop = try EventLoop(name: "unstarted", backend: .epoll, blockingCalls: calls, gate: Gate())
    for _ in 0..<8 {
      let failure = #expect(throws: SystemError.self) {
        try EpollPort(loop: loop, wakeDescriptor: -1, blockingCalls: calls)
      }
      #expect(failure?.code == EBADF)
    }
  }
}
