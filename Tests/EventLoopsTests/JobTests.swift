import EventLoops
import Glibc
import Locks
import Testing

/// An actor that lives on a loop.
private actor Counter {
  private let loop: EventLoop
  private(set) var count = 0
  private(set) var strayCount = 0

  nonisolated var unownedExecutor: UnownedSerialExecutor { loop.asUnownedSerialExecutor() }

  init(on loop: EventLoop) { self.loop = loop }

  /// Counts once before and once after a wait, and notes whenever it isn't on its loop.
  func countAroundAWait() async throws {
    note()
    try await loop.sleep(for: .microseconds(200))
    note()
    await Task.yield()
    note()
  }

  private func note() {
    count += 1
    if !loop.isOnLoop { strayCount += 1 }
  }
}

/// An actor that Swift runs wherever it likes.
private actor Elsewhere {
  private(set) var count = 0
  func increment() -> Int {
    count += 1
    return count
  }
}

@Suite struct JobTests {
  @Test(arguments: backends) func runStartsAndStaysOnTheLoop(_ backend: IOBackend) async throws {
    try await withLoops(backend, count: 2) { group in
      #expect(group.backend == backend)
      for loop in group.loops {
        #expect(!loop.isOnLoop)
        let stays = try await loop.run {
          var stays = loop.isOnLoop
          for _ in 0..<100 {
            await Task.yield()
            stays = stays && loop.isOnLoop
          }
          try await loop.sleep(for: .milliseconds(1))
          return stays && loop.isOnLoop
        }
        #expect(stays)
        #expect(!loop.isOnLoop)
      }
    }
  }

  @Test(arguments: backends) func pinnedActorStaysOnItsLoop(_ backend: IOBackend) async throws {
    try await withLoops(backend, count: 2) { group in
      let (home, other) = (group.loops[0], group.loops[1])
      let counter = Counter(on: home)
      // Entered with the preference, from the other loop, and from nowhere in particular.
      try await home.run { try await counter.countAroundAWait() }
      try await other.run { try await counter.countAroundAWait() }
      try await counter.countAroundAWait()
      try await home.run {
        try await withThrowingTaskGroup(of: Void.self) { tasks in
          for _ in 0..<100 { tasks.addTask { try await counter.countAroundAWait() } }
          try await tasks.waitForAll()
        }
      }
      #expect(await counter.count == 309)
      #expect(await counter.strayCount == 0)
    }
  }

  @Test(arguments: backends) func callsAcrossLoopsComeBack(_ backend: IOBackend) async throws {
    try await withLoops(backend, count: 2) { group in
      let (near, far) = (group.loops[0], group.loops[1])
      let isRight = try await near.run {
        var isRight = true
        for _ in 0..<200 {
          let wasFar = try await far.run { far.isOnLoop && !near.isOnLoop }
          isRight = isRight && wasFar && near.isOnLoop
        }
        return isRight
      }
      #expect(isRight)
    }
  }

  @Test(arguments: backends) func defaultActorIsServedFromALoop(_ backend: IOBackend) async throws {
    let elsewhere = Elsewhere()
    let comesBack = try await onLoop(backend) { loop in
      var comesBack = true
      for expected in 1...100 {
        let count = await elsewhere.increment()
        comesBack = comesBack && count == expected && loop.isOnLoop
      }
      return comesBack
    }
    #expect(comesBack)
  }

  @Test(arguments: backends) func taskThatNeverWaitsDoesNotStarveTimers(_ backend: IOBackend) async throws {
    try await onLoop(backend) { loop in
      let isDone = Lock(false)
      try await withThrowingTaskGroup(of: Void.self) { tasks in
        tasks.addTask {
          try await loop.sleep(for: .milliseconds(5))
          isDone.withLock { $0 = true }
        }
        tasks.addTask {
          var turns = 0
          while !isDone.withLock({ $0 }), turns < 50_000_000 {
            turns += 1
            await Task.yield()
          }
          #expect(isDone.withLock { $0 })
        }
        try await tasks.waitForAll()
      }
    }
  }

  @Test(arguments: backends) func runPassesErrorsAndCancellationOn(_ backend: IOBackend) async throws {
    try await withLoops(backend) { group in
      let loop = group.next()
      await #expect(throws: SystemError(ENOENT)) { try await loop.run { throw SystemError(ENOENT) } }
      let task = Task { try await loop.run { try await loop.sleep(for: .seconds(60)) } }
      task.cancel()
      await #expect(throws: SystemError.cancelled) { try await task.value }
    }
  }

  @Test func sameKeyHasTheSameLoop() async throws {
    try await withLoops(.epoll, count: 3) { group in
      for key in 0..<20 { #expect(group.loop(for: key) === group.loop(for: key)) }
      #expect(Set((0..<3).map { _ in ObjectIdentifier(group.next()) }).count == 3)
    }
  }

  @Test func forcedEpollSaysWhyItIsNotIOUring() async throws {
    let group = try EventLoopGroup(count: 1, backend: .forced(.epoll))
    #expect(group.backend == .epoll)
    #expect(group.backendReason != nil)
    await group.shutdown()
  }
}
