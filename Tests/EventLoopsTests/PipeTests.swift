import Descriptors
import EventLoops
import Glibc
import Testing

/// Bytes that go from a file to a socket by way of a pipe.
@Suite struct PipeTests {
  private static func pair(on loop: EventLoop) throws -> (Socket, Socket) {
    var descriptors: [Int32] = [0, 0]
    try #require(socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0, &descriptors) == 0)
    return (
      try Socket(adopting: FileDescriptor(adopting: descriptors[0]), on: loop),
      try Socket(adopting: FileDescriptor(adopting: descriptors[1]), on: loop)
    )
  }

  @Test(arguments: backends) func everyByteOfAFilePassesToASlowReader(_ backend: IOBackend) async throws {
    let folder = try TemporaryFolder()
    let bytes = pattern((3 << 20) + 1234)
    try folder.makeFile("disk", bytes)
    try await onLoop(backend) { loop in
      let file = try folder.open(file: "disk")
      let (sender, receiver) = try Self.pair(on: loop)
      let pipe = try Pipe(byteCapacity: 1 << 20)
      #expect(pipe.byteCapacity >= 4096)
      // Begins amid a page.
      let start = 777
      async let received = receiver.receiveBytes(bytes.count - start)
      var offset = start
      while offset < bytes.count {
        pipe.byteCount = try await loop.fill(
          pipe: pipe.writingDescriptor, from: file, at: UInt64(offset), byteCount: bytes.count - offset)
        try #require(pipe.byteCount > 0)
        offset += pipe.byteCount
        if try !sender.trySend(pipe) { try await sender.sendAll(pipe) }
        #expect(pipe.byteCount == 0)
      }
      #expect(try await received == Array(bytes[start...]))
      let past = try await loop.fill(
        pipe: pipe.writingDescriptor, from: file, at: UInt64(bytes.count), byteCount: 4096)
      #expect(past == 0)
    }
  }

  @Test(arguments: backends) func socketStaysAsItWasForOtherTransfers(_ backend: IOBackend) async throws {
    let folder = try TemporaryFolder()
    try folder.makeFile("disk", pattern(1 << 20))
    try await onLoop(backend) { loop in
      let file = try folder.open(file: "disk")
      let (sender, receiver) = try Self.pair(on: loop)
      let pipe = try Pipe(byteCapacity: 1 << 20)
      // A receive is under way on the very socket that the pipe's bytes go to.
      async let question = sender.receiveBytes(5)
      try await loop.sleep(for: .milliseconds(5))
      pipe.byteCount = try await loop.fill(
        pipe: pipe.writingDescriptor, from: file, at: 0, byteCount: 1 << 20)
      let count = pipe.byteCount
      async let sent: Void = sender.sendAll(pipe)
      #expect(try await receiver.receiveBytes(count).count == count)
      try await sent
      try await receiver.sendBytes([1, 2, 3, 4, 5])
      #expect(try await question == [1, 2, 3, 4, 5])
      // A plain send that has to wait.
      let long = pattern(2 << 20, seed: 3)
      async let sentLong: Void = sender.sendBytes(long)
      #expect(try await receiver.receiveBytes(long.count) == long)
      try await sentLong
    }
  }

  @Test(arguments: backends) func peerThatIsGoneEndsTheSending(_ backend: IOBackend) async throws {
    let folder = try TemporaryFolder()
    try folder.makeFile("disk", pattern(1 << 20))
    try await onLoop(backend) { loop in
      let file = try folder.open(file: "disk")
      let (sender, receiver) = try Self.pair(on: loop)
      let pipe = try Pipe(byteCapacity: 1 << 20)
      pipe.byteCount = try await loop.fill(pipe: pipe.writingDescriptor, from: file, at: 0, byteCount: 1 << 20)
      receiver.close()
      await #expect(throws: SystemError.self) { try await sender.sendAll(pipe) }
    }
  }
}
