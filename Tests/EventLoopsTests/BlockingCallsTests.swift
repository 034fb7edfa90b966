@testable import EventLoops
import Glibc
import Locks
import Testing

/// Calls that hang, as on a network file system whose server is gone.
@Suite struct BlockingCallsTests {
  /// Blocks the calls that come, until it is opened.
  private final class Barrier: Sendable {
    private let state = Lock((isOpen: false, arrivals: 0, most: 0, inside: 0))

    func pass() {
      state.withLock { state in
        state.arrivals += 1
        state.inside += 1
        state.most = max(state.most, state.inside)
      }
      while !state.withLock({ $0.isOpen }) { usleep(1000) }
      state.withLock { $0.inside -= 1 }
    }

    func open() { state.withLock { $0.isOpen = true } }
    var arrivals: Int { state.withLock { $0.arrivals } }
    var most: Int { state.withLock { $0.most } }
  }

  private func eventually(_ holds: () -> Bool) async throws {
    for _ in 0..<20_000 where !holds() { try await Task.sleep(for: .milliseconds(1)) }
    try #require(holds())
  }

  @Test func hungLaneHoldsUpNoOther() async throws {
    let calls = try BlockingCalls()
    let (barrier, done) = (Barrier(), Lock(0))
    let lanes = (0..<12).map { BlockingLane.fileSystem($0) }
    for lane in lanes {
      for _ in 0..<20 {
        calls.submit(in: lane) {
          barrier.pass()
          done.withLock { $0 += 1 }
        }
      }
    }
    try await eventually { barrier.arrivals == lanes.count * BlockingCalls.threadsPerLane }
    let task = Task { await calls.run(in: .folder("/elsewhere")) { 7 } }
    #expect(await task.value == 7)
    #expect(await calls.run(in: .shared) { 8 } == 8)
    #expect(barrier.most == lanes.count * BlockingCalls.threadsPerLane)
    barrier.open()
    calls.shutdown()
    #expect(done.withLock { $0 } == 240)
  }

  @Test func callsBeyondTheThreadsWaitForThem() async throws {
    let calls = try BlockingCalls()
    let (barrier, done) = (Barrier(), Lock(0))
    let laneCount = UInt64(BlockingCalls.maximumThreadCount / BlockingCalls.threadsPerLane + 5)
    for lane in 0..<laneCount {
      for _ in 0..<BlockingCalls.threadsPerLane {
        calls.submit(in: .fileSystem(lane)) {
          barrier.pass()
          done.withLock { $0 += 1 }
        }
      }
    }
    try await eventually { barrier.arrivals == BlockingCalls.maximumThreadCount }
    try await Task.sleep(for: .milliseconds(20))
    #expect(barrier.arrivals == BlockingCalls.maximumThreadCount)
    barrier.open()
    let total = Int(laneCount) * BlockingCalls.threadsPerLane
    try await eventually { done.withLock { $0 } == total }
    calls.shutdown()
  }

  @Test func callsOfALaneBeginInOrder() async throws {
    let calls = try BlockingCalls()
    let (barrier, order) = (Barrier(), Lock<[Int]>([]))
    for _ in 0..<BlockingCalls.threadsPerLane - 1 { calls.submit(in: .shared) { barrier.pass() } }
    for number in 0..<200 { calls.submit(in: .shared) { order.withLock { $0.append(number) } } }
    try await eventually { order.withLock { $0.count } == 200 }
    #expect(order.withLock { $0 } == Array(0..<200))
    barrier.open()
    calls.shutdown()
    // Afterwards the caller's own thread does it.
    let late = Lock(false)
    calls.submit(in: .shared) { late.withLock { $0 = true } }
    #expect(late.withLock { $0 })
  }

  @Test(arguments: backends) func hungCallsLeaveTheLoopsFilesAlone(_ backend: IOBackend) async throws {
    let folder = try TemporaryFolder()
    try folder.makeFile("a", pattern(10_000))
    let barrier = Barrier()
    try await withLoops(backend) { group in
      let loop = group.next()
      try await withThrowingTaskGroup(of: Void.self) { tasks in
        defer { barrier.open() }
        for _ in 0..<10 {
          tasks.addTask {
            try await BlockingLane.$current.withValue(.folder("/hung")) {
              try await loop.run { await loop.blocking { barrier.pass() } }
            }
          }
        }
        try await eventually { barrier.arrivals == BlockingCalls.threadsPerLane }
        try await loop.run {
          let file = try await loop.blocking { Result { try folder.open(file: "a") } }.get()
          #expect(try await loop.readBytes(file, 100, at: 50) == Array(pattern(10_000)[50..<150]))
          try await loop.fdatasync(file)
        }
      }
    }
  }
}
