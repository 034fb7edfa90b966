import Glibc
import HTTPServer
import Locks
import Testing

extension ServerSuites {
  /// Server-sent events: delivery, heartbeats, bounds.
  @Suite struct EventStreamTests {
    private static func eventServer(_ streams: Lock<[ServerSentEvents]>, capacityBytes: Int = 1 << 20) -> TestResponder
    {
      TestResponder(answers: { _ in
        let stream = ServerSentEvents(capacityBytes: capacityBytes)
        streams.withLock { $0.append(stream) }
        return HTTPResponse(status: 200, content: .events(stream))
      })
    }

    private static func subscribe(_ address: HTTPListenAddress, receiveBuffer: Int32? = nil) throws -> RawClient {
      let client = try RawClient(address, receiveBuffer: receiveBuffer)
      try client.send("GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
      let head = try client.readHead()
      #expect(head.status == 200)
      #expect(head.header("Content-Type") == "text/event-stream")
      #expect(head.header("Cache-Control") == "no-store")
      return client
    }

    @Test func framesAreAsTheStandardHasThem() {
      let event = ServerSentEvent(id: "7\n8", name: "job", text: "a\nb\r\n\u{2028}c\r", retryMilliseconds: 10)
      let expected = "id: 78\nevent: job\nretry: 10\ndata: a\ndata: b\ndata: \u{2028}c\ndata: \n\n"
      #expect(String(decoding: event.bytes, as: UTF8.self) == expected)
      #expect(String(decoding: ServerSentEvent(text: "").bytes, as: UTF8.self) == "data: \n\n")
    }

    @Test func eventsArriveAtOnceAndInOrder() async throws {
      let streams = Lock<[ServerSentEvents]>([])
      try await withServer(Self.eventServer(streams)) { server, address in
        let client = try await blocking { try Self.subscribe(address) }
        let stream = try #require(streams.withLock { $0.first })
        let isClosed = Lock(0)
        stream.onClose { isClosed.withLock { $0 += 1 } }
        try await blocking {
          var received = ""
          for number in 0..<50 {
            #expect(stream.send(ServerSentEvent(id: "\(number)", text: "x")))
            if number % 7 == 0 { received += String(decoding: try client.readChunk() ?? [], as: UTF8.self) }
          }
          stream.end()
          #expect(!stream.send(ServerSentEvent(text: "late")))
          while let chunk = try client.readChunk() { received += String(decoding: chunk, as: UTF8.self) }
          #expect(received == (0..<50).map { "id: \($0)\ndata: x\n\n" }.joined())
        }
        #expect(await eventually { isClosed.withLock { $0 } == 1 && server.counts.eventStreams == 0 })
      }
    }

    @Test func manySendersLoseNothing() async throws {
      let streams = Lock<[ServerSentEvents]>([])
      try await withServer(Self.eventServer(streams)) { _, address in
        let client = try await blocking { try Self.subscribe(address) }
        let stream = try #require(streams.withLock { $0.first })
        async let received = blocking {
          var lines = 0
          while let chunk = try client.readChunk() { lines += chunk.count { $0 == UInt8(ascii: "d") } }
          return lines
        }
        await withTaskGroup { group in
          for _ in 0..<4 {
            group.addTask {
              for _ in 0..<500 {
                stream.send(ServerSentEvent(text: "-"))
                await Task.yield()
              }
            }
          }
        }
        stream.end()
        // Each frame has the one "d" of "data", and no other: "data: -" has one.
        #expect(try await received == 2000)
      }
    }

    @Test func quietStreamsBeatStaggered() async throws {
      var options = WebServerOptions()
      options.heartbeat = .milliseconds(160)
      let streams = Lock<[ServerSentEvents]>([])
      try await withServer(Self.eventServer(streams), options: options) { _, address in
        try await blocking {
          let clients = try (0..<4).map { _ in try Self.subscribe(address) }
          for client in clients {
            for _ in 0..<3 { #expect(try client.readChunk() == Array(":\n\n".utf8)) }
          }
        }
      }
    }

    @Test func clientThatDoesNotReadIsDropped() async throws {
      let streams = Lock<[ServerSentEvents]>([])
      let slow = Self.eventServer(streams, capacityBytes: 256 << 10)
      try await withServer(slow) { server, address in
        let client = try await blocking { try Self.subscribe(address, receiveBuffer: 16 << 10) }
        let stream = try #require(streams.withLock { $0.first })
        let isClosed = Lock(0)
        stream.onClose { isClosed.withLock { $0 += 1 } }
        let event = ServerSentEvent(text: String(repeating: "x", count: 10_000))
        var sent = 0
        while stream.send(event), sent < 5000 { sent += 1 }
        #expect(sent < 5000)
        #expect(!stream.isOpen)
        #expect(isClosed.withLock { $0 } == 1)
        let nothing = WebServer.Counts(connections: 0, exchanges: 0, eventStreams: 0)
        #expect(await eventually { server.counts == nothing }, "\(server.counts) after \(sent)")
        client.close()
      }
    }

    @Test func clientThatLeavesIsNoticedWithoutAnEvent() async throws {
      let streams = Lock<[ServerSentEvents]>([])
      try await withServer(Self.eventServer(streams)) { server, address in
        let client = try await blocking { try Self.subscribe(address) }
        let stream = try #require(streams.withLock { $0.first })
        #expect(server.counts.eventStreams == 1)
        client.close()
        #expect(await eventually { !stream.isOpen && server.counts.eventStreams == 0 })
        #expect(await eventually { server.counts.connections == 0 })
        #expect(!stream.send(ServerSentEvent(text: "x")))
        let isTold = Lock(false)
        stream.onClose { isTold.withLock { $0 = true } }
        #expect(isTold.withLock { $0 })
      }
    }

    @Test func streamsBeyondTheLimitAreRefused() async throws {
      var options = WebServerOptions()
      options.eventStreamLimit = 2
      let streams = Lock<[ServerSentEvents]>([])
      try await withServer(Self.eventServer(streams), options: options) { server, address in
        let clients = try await blocking {
          let clients = try (0..<2).map { _ in try Self.subscribe(address) }
          let refused = try RawClient(address).get("/events")
          #expect(refused.status == 503)
          #expect(refused.text == "more than 2 streams")
          return clients
        }
        #expect(streams.withLock { $0.map(\.isOpen) } == [true, true, false])
        clients[0].close()
        #expect(await eventually { server.counts.eventStreams == 1 })
        _ = try await blocking { try Self.subscribe(address) }
      }
    }

    @Test func headOfAStreamIsAnsweredAndTheStreamClosed() async throws {
      let streams = Lock<[ServerSentEvents]>([])
      try await withServer(Self.eventServer(streams)) { server, address in
        try await blocking {
          let response = try RawClient(address).get("/events", method: "HEAD")
          #expect(response.status == 200)
        }
        #expect(await eventually { streams.withLock { !$0[0].isOpen } && server.counts.eventStreams == 0 })
      }
    }
  }
}
