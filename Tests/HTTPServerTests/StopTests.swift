import Glibc
import HTTPServer
import Locks
import Testing

extension ServerSuites {
  /// The end of a server: bounded in time, and nobody is left without an answer.
  @Suite struct StopTests {
    private static let nothing = WebServer.Counts(connections: 0, exchanges: 0, eventStreams: 0)

    private static func client(_ address: HTTPListenAddress, _ request: String) async throws -> RawClient {
      try await blocking {
        let client = try RawClient(address)
        try client.send(request)
        return client
      }
    }

    @Test func requestsInFlightAreFinishedWithinTheGrace() async throws {
      let gate = Gate(), started = Lock(false)
      let responder = TestResponder(answers: { request in
        started.withLock { $0 = true }
        await gate.wait()
        return .text(200, "done")
      })
      let server = try WebServer(responder: responder)
      let address = try server.listen(on: .tcp(host: "127.0.0.1", port: 0))
      let idle = try await blocking { try RawClient(address) }
      let client = try await Self.client(address, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
      #expect(await eventually { started.withLock { $0 } && server.counts.connections == 2 })
      async let stopped: Void = server.stop(grace: .seconds(20))
      // New connections are refused, and new requests on old ones answered so.
      #expect(
        await eventually {
          do { _ = try RawClient(address) } catch { return true }
          return false
        })
      let refused = try await blocking { try idle.get("/") }
      #expect(refused.status == 503)
      #expect(refused.text == "stopping")
      #expect(refused.header("Connection")?.lowercased() == "close")
      let begun = ContinuousClock.now
      gate.open()
      let answer = try await blocking { try client.readResponse() }
      #expect(answer.text == "done")
      await stopped
      #expect(ContinuousClock.now - begun < .seconds(5))
      #expect(await eventually { server.counts == Self.nothing })
    }

    @Test func whatOutlastsTheGraceIsCancelledAndAnswered() async throws {
      let cancelled = Lock(0), started = Lock(0)
      let responder = TestResponder(answers: { request in
        started.withLock { $0 += 1 }
        if request.path == "/stream" {
          return HTTPResponse(
            status: 200,
            content: .stream(length: nil) { writer in
              try await writer.write([1])
              await Gate().wait()
              if Task.isCancelled { cancelled.withLock { $0 += 1 } }
            })
        }
        if request.path == "/events" { return HTTPResponse(status: 200, content: .events(ServerSentEvents())) }
        if request.hasBody {
          let body = try? await request.body.collect(limit: 1 << 30)
          if body == nil { cancelled.withLock { $0 += 1 } }
        } else {
          await Gate().wait()
          if Task.isCancelled { cancelled.withLock { $0 += 1 } }
        }
        return .text(200, "late")
      })
      let server = try WebServer(responder: responder)
      let address = try server.listen(on: .tcp(host: "127.0.0.1", port: 0))
      var waiting: [RawClient] = []
      for _ in 0..<5 { waiting.append(try await Self.client(address, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")) }
      let upload = try await Self.client(
        address, "POST /up HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc")
      let stream = try await Self.client(address, "GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
      let events = try await Self.client(address, "GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
      let idle = try await blocking { try RawClient(address) }
      #expect(await eventually { started.withLock { $0 } == 8 && server.counts.eventStreams == 1 })
      let begun = ContinuousClock.now
      await server.stop(grace: .milliseconds(300))
      let took = ContinuousClock.now - begun
      #expect(took >= .milliseconds(250) && took < .seconds(4), "took \(took)")
      let clients = waiting
      try await blocking {
        for client in clients {
          let answer = try client.readResponse()
          #expect(answer.status == 503)
          #expect(answer.text == "stopping")
          #expect(try client.isClosedByServer())
        }
        // The event stream has an orderly end, the other stream none: it isn't whole.
        _ = try events.readHead()
        #expect(try events.readChunk() == nil)
        #expect(throws: RawClient.Failure.self) { try stream.readResponse() }
        #expect(try upload.isClosedByServer())
        #expect(try idle.isClosedByServer())
      }
      #expect(await eventually { cancelled.withLock { $0 } == 7 })
      #expect(await eventually { server.counts == Self.nothing })
    }

    @Test func handlerThatIgnoresItsCancellationDoesNotHoldTheStop() async throws {
      let gate = Gate(), started = Lock(false)
      let responder = TestResponder(answers: { _ in
        started.withLock { $0 = true }
        // Waits in a task that isn't cancelled with this one.
        await Task.detached { await gate.wait() }.value
        return .text(200, "late")
      })
      let server = try WebServer(responder: responder)
      let address = try server.listen(on: .tcp(host: "127.0.0.1", port: 0))
      let client = try await Self.client(address, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
      #expect(await eventually { started.withLock { $0 } })
      await server.stop(grace: .zero)
      #expect(server.counts == .init(connections: 0, exchanges: 1, eventStreams: 0))
      let status = try await blocking { try client.readResponse().status }
      #expect(status == 503)
      gate.open()
      #expect(await eventually { server.counts == Self.nothing })
    }

    @Test func stoppingTwiceOrWithoutListeningIsHarmless() async throws {
      let server = try WebServer(responder: TestResponder())
      await server.stop(grace: .seconds(5))
      await server.stop(grace: .seconds(5))
      #expect(throws: HTTPListenError.self) { try server.listen(on: .tcp(host: "127.0.0.1", port: 0)) }
    }

    @Test func stoppingUnderLoadNeverHangsOrDies() async throws {
      var served = 0
      for round in 0..<12 {
        let responder = TestResponder(
          answersNow: { $0.path == "/now" ? .text(200, "now") : nil },
          answers: { request in
            if request.path == "/events" {
              let stream = ServerSentEvents()
              stream.send(ServerSentEvent(text: "hello"))
              return HTTPResponse(status: 200, content: .events(stream))
            }
            await Task.yield()
            return .text(200, "later")
          })
        let server = try WebServer(responder: responder)
        let address = try server.listen(on: .tcp(host: "127.0.0.1", port: 0))
        let loads = (0..<4).map { _ in Task { try await blocking { Self.load(address) } } }
        try await Task.sleep(for: .milliseconds(10 + 3 * round))
        let begun = ContinuousClock.now
        await server.stop(grace: .milliseconds(50))
        #expect(ContinuousClock.now - begun < .seconds(3))
        for load in loads { served += try await load.value }
        #expect(await eventually { server.counts == Self.nothing })
      }
      #expect(served > 100)
    }

    @Test func droppedServerStopsByItself() async throws {
      try await withFolder { folder in
        let address = HTTPListenAddress.unix(path: folder + "/s")
        var server: WebServer? = try WebServer(responder: TestResponder())
        _ = try server?.listen(on: address)
        let client = try await Self.client(address, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        #expect(try await blocking { try client.readResponse().status } == 404)
        server = nil
        #expect(try await blocking { try client.isClosedByServer() })
        #expect(await eventually { access(folder + "/s", F_OK) != 0 })
      }
    }

    /// Requests until the server is gone; how many were served.
    private static func load(_ address: HTTPListenAddress) -> Int {
      var held: [RawClient] = []
      var served = 0
      for number in 0..<5000 {
        do {
          let client = try RawClient(address, timeoutMilliseconds: 2000)
          for path in ["/now", "/later", "/now"] where try client.get(path).status == 200 { served += 1 }
          if number % 10 == 0 {
            try client.send("GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
            _ = try client.readHead()
            held.append(client)
          }
        } catch {
          break
        }
      }
      return served
    }
  }
}
