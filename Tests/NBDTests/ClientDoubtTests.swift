import BlockCore
import BlockTesting
import EventLoops
import Foundation
import Locks
import NBD
import Testing

/// Our client and servers that come back as somebody else, or talk nonsense: it believes nothing that it can check.
@Suite struct ClientDoubtTests {
  // MARK: Coming back as somebody else

  @Test func contextsMayHaveOtherNumbersAfterReconnecting() async throws {
    try await withStage { stage in
      let server = try ScriptedServer(
        stage.socketPath,
        terms: { number in
          var terms = ScriptedServer.Terms()
          terms.contextID = 10 + UInt32(number)
          return terms
        },
        serve: { socket, number in
          if number == 0 {
            // Leaves with the request unanswered.
            _ = ScriptedServer.request(socket)
          } else {
            ScriptedServer.serveRightly(socket, contextID: 10 + UInt32(number))
          }
        })
      try await withDevice(stage) { _, device in
        let range = ByteRange(offset: 0, length: 4096)
        let extents = try await device.blockStatus(range, limit: 4)
        #expect(extents == [Extent(range: range, status: [], depth: 1)])
        #expect(device.reconnectionCount == 1)
      }
      withExtendedLifetime(server) {}
    }
  }

  /// A server on its way up may know an export when it is asked for, and not have known it for its contexts.
  @Test func exportThatComesUpInTheMiddleIsAskedForAgain() async throws {
    try await withStage { stage in
      let server = try ScriptedServer(
        stage.socketPath,
        terms: { number in
          var terms = ScriptedServer.Terms()
          terms.comesUpLate = number == 1 || number == 2
          return terms
        },
        serve: { socket, number in
          if number == 0 { _ = ScriptedServer.request(socket) } else { ScriptedServer.serveRightly(socket) }
        })
      try await withDevice(stage) { _, device in
        let range = ByteRange(offset: 0, length: 4096)
        let extents = try await device.blockStatus(range, limit: 4)
        #expect(extents == [Extent(range: range, status: [], depth: 1)])
        #expect(device.reconnectionCount == 1)
      }
      withExtendedLifetime(server) {}
    }
  }

  @Test(arguments: [
    "smaller", "larger", "read-only", "without FLUSH", "without contexts", "without structured replies",
  ])
  func exportThatChangedIsNotTheSame(_ change: String) async throws {
    try await withStage { stage in
      let server = try ScriptedServer(
        stage.socketPath,
        terms: { number in
          var terms = ScriptedServer.Terms()
          guard number > 0 else { return terms }
          switch change {
          case "smaller": terms.byteCount /= 2
          case "larger": terms.byteCount *= 2
          case "read-only": terms.flags |= 2
          case "without FLUSH": terms.flags &= ~4
          case "without contexts": terms.contextID = nil
          default: terms.isStructured = false
          }
          return terms
        },
        serve: { socket, number in
          if number == 0 { _ = ScriptedServer.request(socket) } else { ScriptedServer.serveRightly(socket) }
        })
      try await withDevice(stage) { _, device in
        for _ in 0..<2 {
          let error = await #expect(throws: BlockError.self) { try await device.readBytes(4, at: 0) }
          #expect(error?.kind == .io(errno: ESTALE), "\(String(describing: error))")
          #expect(error?.description.contains("isn't the same any more: ") == true)
        }
      }
      withExtendedLifetime(server) {}
    }
  }

  // MARK: Nonsense

  /// Answers that break the protocol, and the request that they are given to.
  static let nonsense: [(name: String, type: UInt16, answer: @Sendable (ScriptedServer.Request) -> [UInt8])] = [
    ("no magic", 0, { _ in [UInt8](repeating: 0x33, count: 64) }),
    ("an unknown cookie", 0, { big(UInt32(0x668e_33ef)) + [0, 1, 0, 0] + $0.cookie.reversed() + big(UInt32(0)) }),
    ("a simple reply to a structured READ", 0, { ScriptedServer.simple($0) }),
    ("data outside of the request", 0, { ScriptedServer.chunk($0, type: 1, big($0.offset + 1) + [1, 2, 3, 4]) }),
    ("data from before it", 0, { ScriptedServer.chunk($0, type: 1, big(UInt64.max) + [1, 2, 3, 4]) }),
    ("too little data", 0, { ScriptedServer.chunk($0, type: 1, big($0.offset) + [1]) }),
    (
      "data twice", 0,
      { request in
        let part = ScriptedServer.chunk(request, type: 1, isLast: false, big(request.offset) + [1, 2, 3, 4])
        return part + part
      }
    ),
    ("a data chunk without data", 0, { ScriptedServer.chunk($0, type: 1, big($0.offset)) }),
    ("a hole longer than the request", 0, { ScriptedServer.chunk($0, type: 2, big($0.offset) + big(UInt32.max)) }),
    (
      "a chunk that is far too long", 0,
      {
        big(UInt32(0x668e_33ef)) + [0, 1, 0, 1] + $0.cookie + big(UInt32.max)
      }
    ),
    ("NONE with a payload", 0, { ScriptedServer.chunk($0, type: 0, [1]) }),
    ("an error without an error", 0, { ScriptedServer.chunk($0, type: 0x8001, [0, 0, 0, 0, 0, 0]) }),
    ("an error that is cut short", 0, { ScriptedServer.chunk($0, type: 0x8001, [0, 0, 0, 5, 0, 9, 65]) }),
    ("a chunk of unknown type", 0, { ScriptedServer.chunk($0, type: 77, [1, 2, 3]) }),
    ("success for nothing", 0, { ScriptedServer.chunk($0, type: 0, []) }),
    ("a status to a READ", 0, { ScriptedServer.chunk($0, type: 5, big(UInt32(1)) + big(UInt32(4)) + big(UInt32(0))) }),
    ("data to a status", 7, { ScriptedServer.chunk($0, type: 1, big($0.offset) + [1, 2, 3, 4]) }),
    (
      "a status of another context", 7,
      {
        ScriptedServer.chunk($0, type: 5, big(UInt32(2)) + big(UInt32(4)) + big(UInt32(0)))
      }
    ),
    ("a status of no extent", 7, { ScriptedServer.chunk($0, type: 5, big(UInt32(1))) }),
    ("an extent of no length", 7, { ScriptedServer.chunk($0, type: 5, big(UInt32(1)) + big(UInt64(0))) }),
    ("no status at all", 7, { ScriptedServer.chunk($0, type: 0, []) }),
  ]

  @Test(arguments: nonsense.indices) func nonsenseFailsAllRequests(_ index: Int) async throws {
    let (name, type, answer) = Self.nonsense[index]
    try await withStage { stage in
      let server = try ScriptedServer(stage.socketPath) { socket, _ in
        while let request = ScriptedServer.request(socket) {
          socket.send(request.type == type ? answer(request) : ScriptedServer.answer(request))
        }
      }
      try await withDevice(stage) { _, device in
        let error = await #expect(throws: BlockError.self, "\(name)") {
          if type == 7 {
            _ = try await device.blockStatus(ByteRange(offset: 8192, length: 4096), limit: 4)
          } else {
            _ = try await device.readBytes(4, at: 8192)
          }
        }
        #expect(error?.kind == .io(errno: EPROTO), "\(name): \(String(describing: error))")
      }
      withExtendedLifetime(server) {}
    }
  }

  /// An answer that ends in the middle is a broken connection: the request is sent again.
  @Test func answerThatIsCutIsAskedForAgain() async throws {
    try await withStage { stage in
      let server = try ScriptedServer(stage.socketPath) { socket, number in
        while let request = ScriptedServer.request(socket) {
          let answer = ScriptedServer.answer(request)
          socket.send(number < answer.count / 8 ? Array(answer.prefix(number * 8)) : answer)
          if number < answer.count / 8 { return }
        }
      }
      try await withDevice(stage) { _, device in
        let bytes = try await device.readBytes(16, at: 0)
        #expect(bytes == [UInt8](repeating: 9, count: 16))
        #expect(device.reconnectionCount > 3)
      }
      withExtendedLifetime(server) {}
    }
  }
}
