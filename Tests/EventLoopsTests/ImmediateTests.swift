import Descriptors
import EventLoops
import Glibc
import Locks
import Testing

/// What sockets do without waiting, and loops that poll before they sleep.
@Suite struct ImmediateTests {
  private static func pair(on loop: EventLoop) throws -> (Socket, Socket) {
    var descriptors: [Int32] = [0, 0]
    try #require(socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0, &descriptors) == 0)
    return (
      try Socket(adopting: FileDescriptor(adopting: descriptors[0]), on: loop),
      try Socket(adopting: FileDescriptor(adopting: descriptors[1]), on: loop)
    )
  }

  @Test(arguments: backends) func trySendTakesWhatFitsAndTheRestFollowsInOrder(_ backend: IOBackend) async throws {
    let bytes = pattern(3 << 20)
    try await onLoop(backend) { loop in
      let (sender, receiver) = try Self.pair(on: loop)
      // Pieces with gaps between them, more than one call takes.
      let pieces = (0..<700).map { $0 * 4096..<$0 * 4096 + 4000 }
      let expected = pieces.flatMap { bytes[$0] }
      let sent = try sender.trySend(bytes.span.bytes, pieces: pieces)
      #expect(sent > 0 && sent < expected.count)
      #expect(try sender.trySend(bytes.span.bytes, pieces: [0..<4096]) < 4096, "a full socket takes no more")
      _ = try await receiver.receiveBytes(sent)
      sender.close()
      #expect(throws: SystemError.self) { try sender.trySend(bytes.span.bytes, pieces: pieces) }
    }
    try await onLoop(backend) { loop in
      let (sender, receiver) = try Self.pair(on: loop)
      let part = try sender.trySend(bytes.span.bytes, pieces: [0..<bytes.count])
      let rest = Array(bytes[part...])
      async let received = receiver.receiveBytes(bytes.count)
      try await sender.sendBytes(rest)
      #expect(try await received == bytes)
    }
  }

  @Test(arguments: backends) func peerThatIsAlwaysReadyLeavesTheLoopToOthers(_ backend: IOBackend) async throws {
    try await onLoop(backend) { loop in
      let (sender, receiver) = try Self.pair(on: loop)
      let turns = Lock(0)
      let isDone = Lock(false)
      try await withThrowingTaskGroup(of: Void.self) { tasks in
        tasks.addTask {
          while !isDone.withLock({ $0 }) {
            turns.withLock { $0 += 1 }
            await Task.yield()
          }
        }
        try await sender.sendBytes(pattern(100_000))
        let before = turns.withLock { $0 }
        // Each byte is there already.
        for _ in 0..<2000 { _ = try await receiver.receiveBytes(1) }
        let during = turns.withLock { $0 } - before
        isDone.withLock { $0 = true }
        #expect(during >= 50)
      }
    }
  }

  /// A post that isn't followed by a wake-up would hang here: the loop is caught before, in and after its looking out.
  @Test(arguments: backends) func everyPostFromAnotherThreadIsHeard(_ backend: IOBackend) async throws {
    let seed = UInt64.random(in: 0...UInt64.max)
    print("everyPostFromAnotherThreadIsHeard seed \(seed)")
    try await withLoops(backend) { group in
      let loop = group.next()
      var random = seed | 1
      for _ in 0..<1500 * effort {
        random ^= random << 13
        random ^= random >> 7
        random ^= random << 17
        // Mostly shorter than a loop polls, sometimes longer.
        let pause = random % 8 == 0 ? 150 : random % 60
        let answer = try await loop.run { await loop.blocking { usleep(UInt32(pause)) } }
        #expect(answer == 0)
      }
    }
  }

  @Test(arguments: backends) func timersFireInTimeWhileTheLoopIsBusy(_ backend: IOBackend) async throws {
    try await onLoop(backend) { loop in
      for _ in 0..<200 { try await loop.sleep(for: .microseconds(20)) }
      let clock = ContinuousClock()
      let elapsed = try await clock.measure { try await loop.sleep(for: .milliseconds(5)) }
      #expect(elapsed >= .milliseconds(5))
    }
  }
}
