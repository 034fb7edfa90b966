import BlockCore
import EventLoops
import Testing

/// The lock among tasks of an event loop that aren't isolated to an actor, as those of a job are.
struct RangeLockOnLoopTests {
  @Test(.timeLimit(.minutes(1)))
  func noWaiterIsForgottenOrLetInEarly() async throws {
    let group = try EventLoopGroup(count: 1)
    let loop = group.loops[0]
    let isFree = try await loop.run {
      let lock = RangeLock()
      await withTaskGroup(of: Void.self) { tasks in
        for index in 0..<64 {
          tasks.addTask {
            for round in 0..<50 {
              let range = ByteRange(offset: UInt64((index + round) % 3), length: 2)
              await lock.withRange(range, index % 4 == 0 ? .shared : .exclusive) { await Task.yield() }
            }
          }
        }
      }
      return lock.isFree(ByteRange(offset: 0, length: 100), .exclusive)
    }
    #expect(isFree)
    await group.shutdown()
  }
}
