import Foundation
import HTTPServer
import Locks
import Testing

extension ServerSuites {
  /// What reaches the responder of a request, and what goes back.
  @Suite struct RequestTests {
    private static let echo = TestResponder(
      answersNow: { request in
        guard request.path.hasPrefix("/now") || request.method == "HEAD" else { return nil }
        return .text(200, describe(request))
      },
      answers: { .text(200, describe($0)) })

    private static func describe(_ request: HTTPRequest) -> String {
      let pairs = request.queryPairs.map { "\($0.name)=\($0.value.map(String.init) ?? "nil")" }
      return "\(request.method) \(request.path) [\(pairs.joined(separator: ","))] \(request.version)"
    }

    @Test func answersAtOnceAndFromATask() async throws {
      try await withServer(Self.echo) { _, address in
        try await blocking {
          let client = try RawClient(address)
          #expect(try client.get("/now/x?a=1").text == "GET /now/x [a=1] HTTP/1.1")
          #expect(try client.get("/later").text == "GET /later [] HTTP/1.1")
          #expect(try client.get("/now", method: "DELETE").text == "DELETE /now [] HTTP/1.1")
        }
      }
    }

    @Test func pathAndQueryArriveUndecoded() async throws {
      try await withServer(Self.echo) { _, address in
        try await blocking {
          let client = try RawClient(address)
          for route in ["/now", "/later"] {
            let response = try client.get("\(route)/a%2Fb%00c/%zz+d?x=%00&x=a+b&&y&z=&x=%26=")
            #expect(response.text == "GET \(route)/a%2Fb%00c/%zz+d [x=%00,x=a+b,y=nil,z=,x=%26=] HTTP/1.1")
          }
        }
      }
    }

    @Test func headersKeepRepeatsAndCompareWithoutCase() async throws {
      let responder = TestResponder(answers: { request in
        var response = HTTPResponse.text(
          200, request.headers.values("x-THING").joined(separator: "|") + " " + (request.headers["HOST"] ?? "none"))
        response.headers.append("X-Back", "one")
        response.headers.append("X-Back", "two")
        return response
      })
      try await withServer(responder) { _, address in
        try await blocking {
          let response = try RawClient(address).get("/", "X-Thing: 1\r\nx-thing: 2\r\nX-THING: 3\r\n")
          #expect(response.text == "1|2|3 x")
          #expect(response.headers.filter { $0.name == "X-Back" }.map(\.value) == ["one", "two"])
        }
      }
    }

    @Test func fieldsThatWouldSplitAResponseAreNotSent() async throws {
      let responder = TestResponder(answersNow: { _ in
        HTTPResponse(status: 200, headers: ["X-Bad": "a\r\nX-Evil: b", "X-Good": "c"])
      })
      try await withServer(responder) { _, address in
        try await blocking {
          let response = try RawClient(address).get("/")
          #expect(response.header("X-Good") == "c")
          #expect(response.header("X-Bad") == nil && response.header("X-Evil") == nil)
        }
      }
    }

    @Test func requestIdentitiesAreUniqueAndPeersKnown() async throws {
      let responder = TestResponder(answers: { .text(200, "\($0.id) \($0.peer) \($0.isSecure)") })
      try await withServer(responder) { _, address in
        try await blocking {
          let client = try RawClient(address)
          let answers = try (0..<3).map { _ in try client.get("/").text }
          #expect(Set(answers).count == 3)
          for answer in answers {
            let parts = answer.split(separator: " ")
            #expect(parts[0].count == 32 && parts[0].allSatisfy { $0.isHexDigit })
            #expect(parts.dropFirst() == ["loopback", "false"])
          }
        }
      }
    }

    @Test func pipelinedRequestsAreAnsweredInOrder() async throws {
      try await withServer(Self.echo) { server, address in
        try await blocking {
          let client = try RawClient(address)
          let paths = (0..<30).map { $0 % 3 == 0 ? "/now/\($0)" : "/later/\($0)" }
          try client.send(paths.map { "GET \($0) HTTP/1.1\r\nHost: x\r\n\r\n" }.joined())
          for path in paths { #expect(try client.readResponse().text == "GET \(path) [] HTTP/1.1") }
          #expect(server.counts.connections == 1)
        }
      }
    }

    @Test func headTellsTheLengthAndSendsNothing() async throws {
      let isRun = Lock(false)
      let responder = TestResponder(
        answersNow: { $0.path == "/now" ? .text(200, "12345") : nil },
        answers: { request in
          guard request.path == "/stream" else { return .text(200, "1234567") }
          return HTTPResponse(status: 200, content: .stream(length: 9) { _ in isRun.withLock { $0 = true } })
        })
      try await withServer(responder) { _, address in
        try await blocking {
          let client = try RawClient(address)
          for (path, length) in [("/now", "5"), ("/later", "7"), ("/stream", "9")] {
            let response = try client.get(path, method: "HEAD")
            #expect(response.status == 200)
            #expect(response.header("Content-Length") == length)
          }
          #expect(try client.get("/later").text == "1234567")
        }
        #expect(!isRun.withLock { $0 })
      }
    }

    @Test func oldClientsAreServedAndClosed() async throws {
      try await withServer(Self.echo) { _, address in
        try await blocking {
          let client = try RawClient(address)
          try client.send("GET /later HTTP/1.0\r\n\r\n")
          #expect(try client.readResponse().text == "GET /later [] HTTP/1.0")
          #expect(try client.isClosedByServer())
        }
      }
    }

    @Test func handlersRunOnTheGivenExecutor() async throws {
      let executor = OneThreadExecutor()
      defer { executor.end() }
      let responder = TestResponder(answers: { request in
        _ = try await request.body.collect(limit: 100)
        let isHome = executor.isCurrent
        return HTTPResponse(
          status: 200,
          content: .stream(length: nil) { writer in
            try await writer.write(Array("\(isHome) \(executor.isCurrent)".utf8))
          })
      })
      let server = try WebServer(responder: responder, executor: executor)
      let address = try server.listen(on: .tcp(host: "127.0.0.1", port: 0))
      let text = try await blocking {
        let client = try RawClient(address)
        try client.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")
        return try client.readResponse().text
      }
      #expect(text == "true true")
      await server.stop(grace: .seconds(1))
    }

    @Test func errorsOfHandlersBecomeFaults() async throws {
      struct Broken: Error {}
      let responder = TestResponder(answers: { _ in throw Broken() })
      try await withServer(responder) { _, address in
        try await blocking {
          let client = try RawClient(address)
          for _ in 0..<2 {
            let response = try client.get("/")
            #expect(response.status == 500)
            #expect(response.text == "Broken()")
          }
        }
      }
    }

    @Test func twoHundredConnectionsAtATime() async throws {
      let gate = Gate()
      let responder = TestResponder(answers: { request in
        await gate.wait()
        return .text(200, request.path)
      })
      try await withServer(responder) { server, address in
        let clients = try await blocking {
          try (0..<200).map { number in
            let client = try RawClient(address)
            try client.send("GET /\(number) HTTP/1.1\r\nHost: x\r\n\r\n")
            return client
          }
        }
        #expect(await eventually { server.counts.exchanges == 200 && server.counts.connections == 200 })
        gate.open()
        try await blocking {
          let texts = try clients.map { try $0.readResponse().text }
          #expect(texts == (0..<200).map { "/\($0)" })
          let again = try clients.map { try $0.get("/again").text }
          #expect(Set(again) == ["/again"])
          clients.forEach { $0.close() }
        }
      }
    }

    @Test func connectionsBeyondTheLimitWaitTheirTurn() async throws {
      var options = WebServerOptions()
      options.connectionLimit = 6
      try await withFolder { folder in
        try await withServer(Self.echo, options: options, at: .unix(path: folder + "/s")) { server, address in
          try await blocking {
            let held = try (0..<3).map { _ in try RawClient(address) }
            for client in held { #expect(try client.get("/now").status == 200) }
            let late = try (0..<4).map { _ in try RawClient(address) }
            for client in late { try client.send("GET /later HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n") }
            usleep(100_000)
            #expect(server.counts.connections == 3)
            held.forEach { $0.close() }
            for client in late { #expect(try client.readResponse().status == 200) }
          }
        }
      }
    }

    /// One TCP address can take neither all TCP connections nor any of the unix socket's.
    @Test func oneAddressHasHalfOfItsListenersConnections() async throws {
      var options = WebServerOptions()
      options.connectionLimit = 16
      try await withFolder { folder in
        try await withServer(Self.echo, options: options) { server, address in
          let local = try server.listen(on: .unix(path: folder + "/s"))
          try await blocking {
            let held = try (0..<4).map { _ in try RawClient(address) }
            for client in held { #expect(try client.get("/now").status == 200) }
            for _ in 0..<8 {
              #expect(throws: RawClient.Failure.self) { try RawClient(address).get("/now") }
            }
            let others = try (0..<8).map { _ in try RawClient(local) }
            for client in others { #expect(try client.get("/now").status == 200) }
            #expect(server.counts.connections == 12)
            held.forEach { $0.close() }
            others.forEach { $0.close() }
          }
          #expect(await eventually { server.counts.connections == 0 })
          let status = try await blocking { try RawClient(address).get("/now").status }
          #expect(status == 200)
        }
      }
    }

    /// However steadily its bytes come, a head must be whole in its time.
    @Test func aSlowHeadEndsItsConnection() async throws {
      var options = WebServerOptions()
      options.headTime = .milliseconds(300)
      try await withServer(Self.echo, options: options) { server, address in
        try await blocking {
          let slow = try RawClient(address)
          try slow.send("GET /now HTTP/1.1\r\nHost: x\r\nX: ")
          let start = ContinuousClock.now
          #expect(throws: RawClient.Failure.self) {
            while ContinuousClock.now - start < .seconds(20) {
              try slow.send("a")
              usleep(50_000)
            }
          }
          #expect(ContinuousClock.now - start < .seconds(10))
          // One that has had its answer may rest.
          let steady = try RawClient(address)
          #expect(try steady.get("/now").status == 200)
          usleep(1_000_000)
          #expect(try steady.get("/now").status == 200)
        }
        #expect(await eventually { server.counts.connections == 0 })
      }
    }

    @Test func curlIsServed() async throws {
      try await withServer(Self.echo) { _, address in
        let (status, output) = try await run(
          "curl", ["-sS", "--max-time", "5", "http://\(address)/now/a%2Fb?q=1", "http://\(address)/later"])
        #expect(status == 0)
        #expect(output == "GET /now/a%2Fb [q=1] HTTP/1.1GET /later [] HTTP/1.1")
      }
    }
  }
}
