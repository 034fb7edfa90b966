import Foundation
import Glibc
import HTTPServer
import Locks
import Testing

extension ServerSuites {
  /// Contents that aren't bytes, and clients that leave.
  @Suite struct ResponseTests {
    @Test func streamsAreSentChunkedOrWithTheirLength() async throws {
      let responder = TestResponder(answers: { request in
        let length: UInt64? = request.path == "/known" ? 3_000_000 : nil
        return HTTPResponse(
          status: 200,
          content: .stream(length: length) { writer in
            for number in 0..<300 { try await writer.write([UInt8](repeating: UInt8(number % 251), count: 10_000)) }
          })
      })
      try await withServer(responder) { _, address in
        try await blocking {
          let client = try RawClient(address)
          let whole = (0..<300).flatMap { [UInt8](repeating: UInt8($0 % 251), count: 10_000) }
          for path in ["/known", "/unknown"] {
            let response = try client.get(path)
            #expect(response.header("Content-Length") == (path == "/known" ? "3000000" : nil))
            #expect(response.body == whole)
          }
        }
      }
    }

    @Test func slowClientHoldsTheProducerBack() async throws {
      let written = Lock(0)
      let responder = TestResponder(answers: { _ in
        HTTPResponse(
          status: 200,
          content: .stream(length: nil) { writer in
            for _ in 0..<640 {
              try await writer.write([UInt8](repeating: 1, count: 100_000))
              written.withLock { $0 += 100_000 }
            }
          })
      })
      try await withServer(responder) { _, address in
        let client = try await blocking {
          let client = try RawClient(address, receiveBuffer: 64 << 10)
          try client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
          return client
        }
        var last = -1
        while written.withLock({ $0 }) != last {
          last = written.withLock { $0 }
          try await Task.sleep(for: .milliseconds(200))
        }
        #expect(last > 0 && last < 32_000_000)
        let size = try await blocking { try client.readResponse().body.count }
        #expect(size == 64_000_000)
      }
    }

    @Test func producerThatFailsBreaksTheConnection() async throws {
      struct Broken: Error {}
      let responder = TestResponder(answers: { _ in
        HTTPResponse(
          status: 200,
          content: .stream(length: nil) { writer in
            try await writer.write(Array("half".utf8))
            throw Broken()
          })
      })
      try await withServer(responder) { server, address in
        let client = try await blocking {
          let client = try RawClient(address)
          #expect(throws: RawClient.Failure.self) { try client.get("/") }
          return client
        }
        #expect(await eventually { server.counts.connections == 0 })
        client.close()
      }
    }

    @Test func contentWithoutLengthOrChunksEndsWithTheConnection() async throws {
      let responder = TestResponder(answers: { request in
        HTTPResponse(
          status: 200,
          content: .stream(length: request.path == "/short" ? 100_001 : nil) { writer in
            for _ in 0..<10 { try await writer.write([UInt8](repeating: 1, count: 10_000)) }
          })
      })
      try await withServer(responder) { server, address in
        for path in ["/old", "/short"] {
          let client = try await blocking {
            let client = try RawClient(address)
            try client.send("GET \(path) HTTP/1.0\r\n\r\n")
            _ = try client.readHead()
            #expect(try client.readToEnd() == [UInt8](repeating: 1, count: 100_000))
            return client
          }
          #expect(await eventually { server.counts.connections == 0 })
          client.close()
        }
      }
    }

    @Test func filesAreSentByRange() async throws {
      try await withFolder { folder in
        let bytes = (0..<500_000).map { UInt8(truncatingIfNeeded: $0 &* 7) }
        let path = folder + "/file"
        try Data(bytes).write(to: URL(fileURLWithPath: path))
        let responder = TestResponder(answersNow: { _ in
          let descriptor = open(path, O_RDONLY)
          return HTTPResponse(
            status: 206, content: .file(HTTPFile(descriptor: descriptor, offset: 1000, length: 400_001)))
        })
        let before = openDescriptors()
        try await withServer(responder) { _, address in
          try await blocking {
            let client = try RawClient(address)
            #expect(try client.get("/").body == Array(bytes[1000..<401_001]))
            #expect(try client.get("/", method: "HEAD").header("Content-Length") == "400001")
          }
        }
        _ = HTTPFile(descriptor: open(path, O_RDONLY), offset: 0, length: 1)
        // The server's own descriptors go with its thread, a moment after the stop.
        #expect(await eventually { openDescriptors() <= before })
      }
    }

    private func openDescriptors() -> Int {
      (try? FileManager.default.contentsOfDirectory(atPath: "/proc/self/fd").count) ?? .max
    }

    @Test func clientThatLeavesCancelsTheHandler() async throws {
      let started = Lock(0), cancelled = Lock(0)
      let responder = TestResponder(answers: { _ in
        started.withLock { $0 += 1 }
        await Gate().wait()
        if Task.isCancelled { cancelled.withLock { $0 += 1 } }
        return .text(200, "too late")
      })
      try await withServer(responder) { server, address in
        let clients = try await blocking {
          try (0..<6).map { _ in
            let client = try RawClient(address)
            try client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            return client
          }
        }
        #expect(await eventually { started.withLock { $0 } == 6 })
        for (number, client) in clients.enumerated() {
          if number % 2 == 0 { client.close() } else { client.reset() }
        }
        #expect(await eventually { cancelled.withLock { $0 } == 6 })
        #expect(await eventually { server.counts.exchanges == 0 && server.counts.connections == 0 })
      }
    }

    @Test func clientThatLeavesEndsTheProducer() async throws {
      let ended = Lock<String?>(nil)
      let responder = TestResponder(answers: { request in
        HTTPResponse(
          status: 200,
          content: .stream(length: nil) { writer in
            do {
              try await writer.write([1])
              if request.path == "/idle" { await Gate().wait() }
              while true { try await writer.write([UInt8](repeating: 1, count: 50_000)) }
            } catch {
              ended.withLock { $0 = "\(type(of: error))" }
              throw error
            }
          })
      })
      try await withServer(responder) { server, address in
        for path in ["/busy", "/idle"] {
          ended.withLock { $0 = nil }
          try await blocking {
            let client = try RawClient(address)
            try client.send("GET \(path) HTTP/1.1\r\nHost: x\r\n\r\n")
            _ = try client.readHead()
            _ = try client.take(4)
            client.close()
          }
          #expect(await eventually { ended.withLock { $0 } != nil })
          #expect(await eventually { server.counts.exchanges == 0 && server.counts.connections == 0 })
        }
      }
    }

    /// Clients that do anything at any time must neither harm the server nor leave anything behind.
    @Test func restlessClientsLeaveNothingBehind() async throws {
      let seed = UInt64.random(in: .min ... .max)
      print("restlessClientsLeaveNothingBehind: seed \(seed)")
      let responder = TestResponder(
        answersNow: { $0.path == "/now" ? .text(200, "now") : nil },
        answers: { request in
          switch request.path {
          case "/body": return .text(200, "\(try await request.body.collect(limit: 1 << 20).count)")
          case "/events": return HTTPResponse(status: 200, content: .events(ServerSentEvents()))
          case "/stream":
            return HTTPResponse(
              status: 200,
              content: .stream(length: nil) { writer in
                for _ in 0..<50 { try await writer.write([UInt8](repeating: 1, count: 20_000)) }
              })
          default:
            try await Task.sleep(for: .milliseconds(2))
            return .text(200, "later")
          }
        })
      // libmicrohttpd can miss that a client left in the middle of its request, and then finds out by this timeout.
      var options = WebServerOptions()
      options.connectionTimeout = .seconds(1)
      try await withServer(responder, options: options) { server, address in
        try await blocking {
          var random = seed
          for _ in 0..<300 { try Self.restless(address, &random) }
        }
        #expect(await eventually { server.counts.exchanges == 0 })
        let text = try await blocking { try RawClient(address).get("/now").text }
        #expect(text == "now")
      }
    }

    private static func restless(_ address: HTTPListenAddress, _ seed: inout UInt64) throws {
      func next(_ bound: UInt64) -> Int {
        seed = seed &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        return Int((seed >> 33) % bound)
      }
      let client = try RawClient(address, timeoutMilliseconds: 20)
      let requests = [
        "GET /now HTTP/1.1\r\nHost: x\r\n\r\n", "GET /later HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /stream HTTP/1.1\r\nHost: x\r\n\r\n", "GET /events HTTP/1.1\r\nHost: x\r\n\r\n",
        "POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 40000\r\n\r\n" + String(repeating: "b", count: 40_000),
        "POST /body HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
      ]
      var bytes = Array((0...next(3)).map { _ in requests[next(6)] }.joined().utf8)
      if next(2) == 0 { bytes = Array(bytes[..<next(UInt64(bytes.count))]) }
      do {
        try client.send(bytes)
        usleep(UInt32(next(3000)))
        if next(3) == 0 { _ = try client.readHead() }
      } catch {}
      if next(2) == 0 { client.reset() } else { client.close() }
    }
  }
}
