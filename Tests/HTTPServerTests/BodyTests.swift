import Glibc
import HTTPServer
import Locks
import Testing

extension ServerSuites {
  /// Bodies of requests: taken as the handler takes them, within their limit.
  @Suite struct BodyTests {
    private static let mebibyte = 1 << 20

    /// Answers with the size of the body and the sum of its bytes.
    private static let measure = TestResponder(answers: { request in
      var size = 0, sum = 0
      for try await chunk in request.body {
        size += chunk.count
        sum = chunk.reduce(sum) { $0 &+ Int($1) }
      }
      return .text(200, "\(size) \(sum)")
    })

    private static func pattern(_ count: Int) -> [UInt8] {
      (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 31 &+ ($0 >> 8)) }
    }

    @Test func bodiesOfManySizesArriveWhole() async throws {
      try await withServer(Self.measure) { _, address in
        try await blocking {
          let client = try RawClient(address)
          for size in [0, 1, 4095, 70_000, 3 << 20] {
            let body = Self.pattern(size)
            try client.send("PUT /\(size) HTTP/1.1\r\nHost: x\r\nContent-Length: \(size)\r\n\r\n")
            try client.send(body)
            #expect(try client.readResponse().text == "\(size) \(body.reduce(0) { $0 + Int($1) })")
          }
        }
      }
    }

    @Test func chunkedBodiesArriveWhole() async throws {
      try await withServer(Self.measure) { _, address in
        try await blocking {
          let client = try RawClient(address)
          for round in 0..<2 {
            try client.send("POST /\(round) HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
            var size = 0, sum = 0
            for length in [1, 17, 5000, 100_000, 3] {
              let piece = Self.pattern(length)
              try client.send(String(length, radix: 16) + "\r\n")
              try client.send(piece)
              try client.send("\r\n")
              size += length
              sum += piece.reduce(0) { $0 + Int($1) }
            }
            try client.send("0\r\n\r\n")
            #expect(try client.readResponse().text == "\(size) \(sum)")
          }
        }
      }
    }

    @Test func slowHandlerHoldsTheUploadBack() async throws {
      let gate = Gate()
      let responder = TestResponder(answers: { request in
        await gate.wait()
        var size = 0
        for try await chunk in request.body { size += chunk.count }
        return .text(200, "\(size)")
      })
      try await withServer(responder) { server, address in
        let size = 48 * Self.mebibyte
        let (client, sent) = try await blocking {
          let client = try RawClient(address)
          try client.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: \(size)\r\n\r\n")
          let block = [UInt8](repeating: 1, count: Self.mebibyte)
          var sent = 0
          // Until nothing moves for a while: what went is in the kernel's buffers and in ours, which are bounded.
          while true {
            let more = try client.sendUntilFull(block, atMost: size - sent)
            if more == 0 { break }
            sent += more
            usleep(100_000)
          }
          return (client, sent)
        }
        #expect(sent < 24 * Self.mebibyte)
        gate.open()
        try await blocking {
          try client.send([UInt8](repeating: 1, count: size - sent))
          #expect(try client.readResponse().text == "\(size)")
        }
      }
    }

    @Test func hugeAnnouncedBodyIsRefusedBeforeItIsRead() async throws {
      let isAsked = Lock(false)
      let responder = TestResponder(
        admits: { _ in .accept(bodyLimit: 1000) },
        answers: { _ in
          isAsked.withLock { $0 = true }
          return .text(200, "")
        })
      try await withServer(responder) { _, address in
        try await blocking {
          let client = try RawClient(address)
          try client.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: \(1 << 40)\r\n\r\n")
          let response = try client.readResponse()
          #expect(response.status == 413)
          #expect(response.text == "more than 1000")
          #expect(try client.isClosedByServer())
        }
        #expect(!isAsked.withLock { $0 })
      }
    }

    @Test func shortBodyThatIsRefusedLeavesTheConnectionUsable() async throws {
      let responder = TestResponder(
        admits: { $0.path == "/no" ? .reject(.text(415, "no")) : .accept(bodyLimit: 10) },
        answers: { .text(200, $0.path) })
      try await withServer(responder) { server, address in
        try await blocking {
          let client = try RawClient(address)
          let body = String(repeating: "x", count: 50_000)
          try client.send("POST /no HTTP/1.1\r\nHost: x\r\nContent-Length: 50000\r\n\r\n\(body)")
          #expect(try client.readResponse().status == 415)
          try client.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 50000\r\n\r\n\(body)")
          #expect(try client.readResponse().status == 413)
          #expect(try client.get("/no").status == 415)
          #expect(try client.get("/yes").text == "/yes")
          #expect(server.counts.connections == 1)
        }
      }
    }

    @Test func chunkedBodyBeyondTheLimitIsRefused() async throws {
      let responder = TestResponder(
        admits: { _ in .accept(bodyLimit: 1000) },
        answers: { .text(200, "\(try await $0.body.collect(limit: 5000).count)") })
      try await withServer(responder) { _, address in
        try await blocking {
          let client = try RawClient(address)
          try client.send("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
          for _ in 0..<20 { try client.send("3e8\r\n" + String(repeating: "y", count: 1000) + "\r\n") }
          try client.send("0\r\n\r\n")
          let response = try client.readResponse()
          #expect(response.status == 413)
          #expect(response.text == "more than 1000")
        }
      }
    }

    @Test func collectHasItsOwnLimit() async throws {
      let responder = TestResponder(answers: { .text(200, "\(try await $0.body.collect(limit: 100).count)") })
      try await withServer(responder) { _, address in
        try await blocking {
          let client = try RawClient(address)
          for (size, status) in [(100, 200), (101, 413), (7, 200)] {
            try client.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: \(size)\r\n\r\n")
            try client.send([UInt8](repeating: 7, count: size))
            #expect(try client.readResponse().status == status)
          }
        }
      }
    }

    @Test func endlessBodyNobodyWantsBreaksTheConnection() async throws {
      var options = WebServerOptions()
      options.unreadBodyLimit = 1 << 20
      let responder = TestResponder(answers: { _ in .text(200, "early") })
      try await withServer(responder, options: options) { _, address in
        try await blocking {
          let client = try RawClient(address)
          try client.send("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
          let block = Array("10000\r\n".utf8) + [UInt8](repeating: 1, count: 65536) + Array("\r\n".utf8)
          #expect(throws: RawClient.Failure.self) {
            for _ in 0..<2000 { try client.send(block) }
          }
        }
      }
    }

    @Test func expectContinueIsAnswered() async throws {
      let responder = TestResponder(
        admits: { $0.path == "/no" ? .reject(.text(415, "no")) : .accept(bodyLimit: 1000) },
        answers: Self.measure.answers)
      try await withServer(responder) { _, address in
        try await blocking {
          let client = try RawClient(address)
          try client.send("PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
          #expect(try client.readHead().status == 100)
          try client.send("\u{1}\u{2}\u{3}")
          #expect(try client.readResponse().text == "3 6")
          try client.send("PUT /no HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
          #expect(try client.readHead().status == 415)
        }
      }
    }

    @Test func clientThatBreaksOffCancelsTheUpload() async throws {
      let outcome = Lock<String?>(nil)
      let responder = TestResponder(answers: { request in
        do {
          _ = try await request.body.collect(limit: 1 << 30)
          outcome.withLock { $0 = "whole" }
        } catch {
          outcome.withLock { $0 = "\(error)" }
        }
        return .text(200, "")
      })
      try await withServer(responder) { server, address in
        for abortive in [false, true] {
          outcome.withLock { $0 = nil }
          try await blocking {
            let client = try RawClient(address)
            try client.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
            try client.send([UInt8](repeating: 1, count: 5000))
            usleep(30_000)
            if abortive { client.reset() } else { client.close() }
          }
          #expect(await eventually { outcome.withLock { $0 } != nil })
          #expect(outcome.withLock { $0 } == "HTTPClientGone()")
          #expect(await eventually { server.counts.exchanges == 0 })
        }
      }
    }
  }
}
