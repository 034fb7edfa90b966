import Descriptors
import EventLoops
import Glibc
import Locks
import Testing

/// Every backend with every family.
private let places = backends.flatMap { backend in Place.Family.available.map { Place(backend: backend, family: $0) } }

struct Place: Sendable, CustomTestStringConvertible {
  enum Family: Sendable {
    case unix, ipv4, ipv6

    /// Without IPv6 where the machine has none.
    static let available: [Family] = access("/proc/net/if_inet6", R_OK) == 0 ? [.unix, .ipv4, .ipv6] : [.unix, .ipv4]
  }
  let backend: IOBackend
  let family: Family

  var testDescription: String { "\(backend) \(family)" }

  func listen(in folder: TemporaryFolder, on loop: EventLoop, backlog: Int32 = 128) throws -> (Socket, SocketAddress) {
    switch family {
    case .unix:
      let address = SocketAddress.unix(path: folder.file("socket"))
      return (try Socket.listen(at: address, backlog: backlog, on: loop), address)
    case .ipv4, .ipv6:
      let host = family == .ipv4 ? "127.0.0.1" : "::1"
      let socket = try Socket.listen(at: .ip(host: host, port: 0), backlog: backlog, on: loop)
      return (socket, .ip(host: host, port: try socket.localPort()))
    }
  }
}

/// Two connected sockets on one loop.
private func pair(on loop: EventLoop) throws -> (Socket, Socket) {
  var descriptors: [Int32] = [0, 0]
  try #require(socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0, &descriptors) == 0)
  return (
    try Socket(adopting: FileDescriptor(adopting: descriptors[0]), on: loop),
    try Socket(adopting: FileDescriptor(adopting: descriptors[1]), on: loop)
  )
}

@Suite struct SocketTests {
  @Test(arguments: places) func echoBringsEveryByteBack(_ place: Place) async throws {
    let folder = try TemporaryFolder()
    let clientCount = 8
    let bytes = pattern(2 << 20)
    try await onLoop(place.backend) { loop in
      let (listener, address) = try place.listen(in: folder, on: loop)
      try await withThrowingTaskGroup(of: Void.self) { tasks in
        for _ in 0..<clientCount {
          tasks.addTask {
            let socket = try await listener.accept()
            var buffer = [UInt8](repeating: 0, count: 50_000)
            while true {
              var span = buffer.mutableSpan
              var raw = span.mutableBytes
              let count = try await socket.receive(into: &raw)
              if count == 0 { break }
              try await socket.sendAll(buffer.span.bytes.extracting(0..<count))
            }
            try socket.shutdown(.writing)
            socket.close()
          }
          tasks.addTask {
            let socket = try await Socket.connect(to: address, on: loop)
            try await withThrowingTaskGroup(of: Void.self) { both in
              // Sends more than the socket holds, and receives at once.
              both.addTask {
                try await socket.sendBytes(bytes)
                try socket.shutdown(.writing)
              }
              both.addTask {
                let found = try await socket.receiveBytes(bytes.count + 1)
                #expect(found == bytes)
              }
              try await both.waitForAll()
            }
            socket.close()
          }
        }
        try await tasks.waitForAll()
      }
      listener.close()
    }
  }

  @Test(arguments: backends) func sendWaitsForASlowReader(_ backend: IOBackend) async throws {
    try await onLoop(backend) { loop in
      let (writer, reader) = try pair(on: loop)
      let bytes = pattern(4 << 20)
      let isSent = Lock(false)
      try await withThrowingTaskGroup(of: Void.self) { tasks in
        tasks.addTask {
          try await writer.sendBytes(bytes)
          isSent.withLock { $0 = true }
          writer.close()
        }
        try await loop.sleep(for: .milliseconds(30))
        #expect(!isSent.withLock { $0 })
        #expect(try await reader.receiveBytes(bytes.count + 1) == bytes)
        try await tasks.waitForAll()
      }
      #expect(isSent.withLock { $0 })
    }
  }

  @Test(arguments: backends) func gatheredPiecesArriveInOrder(_ backend: IOBackend) async throws {
    try await onLoop(backend) { loop in
      let (writer, reader) = try pair(on: loop)
      let bytes = pattern(3 << 20)
      // More pieces than one sendmsg takes, with gaps, some empty, in no order.
      let pieces = (0..<3000).map { index in
        let start = index * 7919 % (bytes.count - 2000)
        return start..<start + index % 1500
      }
      let expected = pieces.flatMap { bytes[$0] }
      try await withThrowingTaskGroup(of: Void.self) { tasks in
        tasks.addTask {
          try await writer.sendAll(bytes.span.bytes, pieces: pieces)
          try await writer.sendAll(bytes.span.bytes.extracting(0..<16), bytes.span.bytes)
          writer.close()
        }
        let received = try await reader.receiveBytes(expected.count + 16 + bytes.count + 1)
        #expect(received == expected + bytes[0..<16] + bytes)
        try await tasks.waitForAll()
      }
    }
  }

  @Test(arguments: places) func cancelledAcceptEndsPromptly(_ place: Place) async throws {
    let folder = try TemporaryFolder()
    try await onLoop(place.backend) { loop in
      let (listener, address) = try place.listen(in: folder, on: loop)
      try await withThrowingTaskGroup(of: Void.self) { tasks in
        tasks.addTask { await #expect(throws: SystemError.cancelled) { try await listener.accept() } }
        try await loop.sleep(for: .milliseconds(10))
        tasks.cancelAll()
        try await tasks.waitForAll()
      }
      // The listener still works.
      async let accepted = listener.accept()
      let client = try await Socket.connect(to: address, on: loop)
      try await client.sendBytes([1, 2, 3])
      #expect(try await accepted.receiveBytes(3) == [1, 2, 3])
    }
  }

  @Test(arguments: backends) func cancelledReceiveLosesNothing(_ backend: IOBackend) async throws {
    try await onLoop(backend) { loop in
      let (writer, reader) = try pair(on: loop)
      try await withThrowingTaskGroup(of: Void.self) { tasks in
        tasks.addTask { await #expect(throws: SystemError.cancelled) { _ = try await reader.receiveBytes(10) } }
        try await loop.sleep(for: .milliseconds(10))
        tasks.cancelAll()
        try await tasks.waitForAll()
      }
      try await writer.sendBytes([9, 8, 7])
      #expect(try await reader.receiveBytes(3) == [9, 8, 7])
    }
  }

  @Test(arguments: backends) func cancelledSendEndsPromptly(_ backend: IOBackend) async throws {
    try await onLoop(backend) { loop in
      let (writer, reader) = try pair(on: loop)
      try await withThrowingTaskGroup(of: Void.self) { tasks in
        tasks.addTask {
          await #expect(throws: SystemError.cancelled) {
            try await writer.sendBytes([UInt8](repeating: 1, count: 8 << 20))
          }
        }
        try await loop.sleep(for: .milliseconds(10))
        tasks.cancelAll()
        try await tasks.waitForAll()
      }
      _ = reader
    }
  }

  @Test(arguments: backends) func closeEndsWaitsInFlight(_ backend: IOBackend) async throws {
    try await onLoop(backend) { loop in
      let (socket, peer) = try pair(on: loop)
      try await withThrowingTaskGroup(of: Void.self) { tasks in
        tasks.addTask { await #expect(throws: SystemError.cancelled) { _ = try await socket.receiveBytes(10) } }
        try await loop.sleep(for: .milliseconds(10))
        socket.close()
        socket.close()
        try await tasks.waitForAll()
      }
      await #expect(throws: SystemError(EBADF, "the socket is closed")) { _ = try await socket.receiveBytes(1) }
      #expect(try await peer.receiveBytes(1) == [])
    }
  }

  @Test(arguments: backends) func peerThatIsGoneIsAnErrorAndNoSignal(_ backend: IOBackend) async throws {
    try await onLoop(backend) { loop in
      let (socket, peer) = try pair(on: loop)
      peer.close()
      await #expect(throws: SystemError(EPIPE)) { try await socket.sendBytes([1]) }
    }
  }

  @Test(arguments: backends) func connectionToNobodyIsRefused(_ backend: IOBackend) async throws {
    let folder = try TemporaryFolder()
    try await onLoop(backend) { loop in
      let listener = try Socket.listen(at: .ip(host: "127.0.0.1", port: 0), on: loop)
      let port = try listener.localPort()
      listener.close()
      await #expect(throws: SystemError(ECONNREFUSED)) {
        _ = try await Socket.connect(to: .ip(host: "127.0.0.1", port: port), on: loop)
      }
      await #expect(throws: SystemError(ENOENT)) {
        _ = try await Socket.connect(to: .unix(path: folder.file("nobody")), on: loop)
      }
      await #expect(throws: SystemError.self) {
        _ = try await Socket.connect(to: .unix(path: String(repeating: "x", count: 108)), on: loop)
      }
      await #expect(throws: SystemError.self) {
        _ = try await Socket.connect(to: .ip(host: "localhost", port: 1), on: loop)
      }
    }
  }

  /// A unix socket's listener that is full makes connecting clients wait; none fails.
  @Test(arguments: backends) func connectWaitsForAFullListener(_ backend: IOBackend) async throws {
    let folder = try TemporaryFolder()
    let place = Place(backend: backend, family: .unix)
    try await onLoop(backend) { loop in
      let (listener, address) = try place.listen(in: folder, on: loop, backlog: 1)
      try await withThrowingTaskGroup(of: Void.self) { tasks in
        for index in 0..<10 {
          tasks.addTask {
            let socket = try await Socket.connect(to: address, on: loop)
            try await socket.sendBytes([UInt8(index)])
          }
        }
        try await loop.sleep(for: .milliseconds(30))
        var seen: Set<UInt8> = []
        for _ in 0..<10 { seen.insert(try await listener.accept().receiveBytes(1)[0]) }
        #expect(seen.count == 10)
        try await tasks.waitForAll()
      }
    }
  }

  @Test(arguments: backends) func socketMovesBetweenLoops(_ backend: IOBackend) async throws {
    try await withLoops(backend, count: 2) { group in
      let (first, second) = (group.loops[0], group.loops[1])
      let (socket, peer) = try await first.run {
        let (socket, peer) = try pair(on: first)
        // Waits once on the first loop, so that it knows the descriptor.
        async let received = socket.receiveBytes(3)
        try await first.sleep(for: .milliseconds(5))
        try await peer.sendBytes([1, 2, 3])
        #expect(try await received == [1, 2, 3])
        socket.move(to: second)
        return (socket, peer)
      }
      try await withThrowingTaskGroup(of: Void.self) { tasks in
        tasks.addTask {
          try await second.run {
            let found = try await socket.receiveBytes(2)
            #expect(found == [4, 5])
          }
        }
        tasks.addTask {
          try await first.run {
            try await first.sleep(for: .milliseconds(5))
            try await peer.sendBytes([4, 5])
          }
        }
        try await tasks.waitForAll()
      }
    }
  }
}
