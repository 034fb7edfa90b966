import Locks
import Testing

@Suite struct LockTests {
  @Test func incrementsFromManyThreadsAllCount() async {
    let counter = Lock(0)
    await withTaskGroup { group in
      for _ in 0..<4 {
        group.addTask {
          for _ in 0..<5000 { counter.withLock { $0 += 1 } }
        }
      }
    }
    #expect(counter.withLock { $0 } == 20_000)
  }

  @Test func lockIsFreeAfterItsBodyThrows() {
    struct Refused: Error {}
    let state = Lock(1)
    #expect(throws: Refused.self) {
      try state.withLock { (value) throws(Refused) in
        value = 2
        throw Refused()
      }
    }
    #expect(state.withLock { $0 } == 2)
  }
}
