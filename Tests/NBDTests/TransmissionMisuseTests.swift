import BlockCore
import BlockTesting
import EventLoops
import NBD
import Testing

private let permission: UInt32 = 1
private let invalid: UInt32 = 22
private let noSpace: UInt32 = 28
private let overflow: UInt32 = 75
private let notSupported: UInt32 = 95

/// What a server answers to clients that get requests wrong. Each time it goes on serving others.
@Suite struct TransmissionMisuseTests {
  private static let byteCount: UInt64 = 1 << 20

  private func misuse(
    alignment: Int = 1, zeroesFast: Bool = true, isReadOnly: Bool = false,
    _ body: @Sendable @escaping (RawClient) throws -> Void
  ) async throws {
    try await withWorld(loopCount: 1) { world in
      var limits = BlockLimits()
      limits.requestAlignment = alignment
      var options = MemoryDevice.Options()
      options.limits = limits
      options.zeroesFast = zeroesFast
      var exportOptions = NBDExport.Options()
      exportOptions.isReadOnly = isReadOnly
      let export = try world.publish(
        MemoryDevice(byteCount: Self.byteCount, options: options), options: exportOptions)
      try world.publishForBystanders()
      let path = world.socketPath
      try await Bystander.watch(world) { () throws in try body(try RawClient(path)) }
      try await eventually("the clients are gone") { export.figures.clientCount == 0 }
    }
  }

  @Test func garbageInPlaceOfARequestEndsTheConnection() async throws {
    try await misuse { client in
      try client.enter()
      try client.send([UInt8](repeating: 0x5a, count: 100))
      #expect(client.isEnded)
    }
  }

  @Test func extendedRequestWithoutNegotiationEndsTheConnection() async throws {
    try await misuse { client in
      try client.enter(structured: true)
      try client.extendedRequest(0, length: 4096)
      #expect(client.isEnded)
    }
  }

  @Test(arguments: [1, 5, 27, 28, 100]) func cutInARequestLeavesNothing(_ count: Int) async throws {
    try await misuse { client in
      try client.enter()
      let request = big(UInt32(0x25609513)) + [0, 0, 0, 1] + big(UInt64(9)) + big(UInt64(0)) + big(UInt32(4096))
      try client.send(Array((request + [UInt8](repeating: 1, count: 4096)).prefix(count)))
      client.endSending()
      #expect(client.isEnded)
    }
  }

  @Test func halfAWriteChangesNothing() async throws {
    try await withWorld { world in
      let device = MemoryDevice(byteCount: 1 << 20)
      try world.publish(device)
      try await RawClient.with(world.socketPath) { client in
        try client.enter()
        try client.request(1, length: 1 << 19, [UInt8](repeating: 1, count: 1 << 18))
      }
      try await eventually("the client is gone") { world.server.connectionCount == 0 }
      #expect(device.calls[.write] == 0)
    }
  }

  @Test func unknownCommandIsInvalid() async throws {
    try await misuse { client in
      try client.enter()
      for type: UInt16 in [8, 9, 255, 65535] {
        try client.request(type, length: 512)
        #expect(try client.simpleReply() == invalid)
      }
      try client.expectAlive()
    }
  }

  @Test func flagsThatACommandDoesNotHaveAreInvalid() async throws {
    try await misuse { client in
      try client.enter(structured: true, contexts: ["base:allocation"])
      for (type, flags): (UInt16, UInt16) in [
        (0, 2), (0, 8), (0, 0x8000), (3, 4), (4, 2), (5, 16), (6, 4), (7, 2), (0, 32),
      ] {
        try client.request(type, flags: flags, length: type == 3 ? 0 : 512)
        let chunk = try client.chunk()
        #expect(chunk.error == invalid && chunk.isLast, "command \(type), flags \(flags)")
      }
      // Its payload is read past.
      try client.request(1, flags: 8, length: 5, [1, 2, 3, 4, 5])
      #expect(try client.chunk().error == invalid)
      try client.expectAlive()
    }
  }

  @Test func everyCommandMayCarryFUA() async throws {
    try await misuse { client in
      try client.enter()
      try client.request(0, flags: 1, length: 512)
      #expect(try client.simpleReply() == 0)
      _ = try client.receive(512)
      for type: UInt16 in [4, 5, 6] {
        try client.request(type, flags: 1, length: 512)
        #expect(try client.simpleReply() == 0)
      }
      try client.request(3, flags: 1)
      #expect(try client.simpleReply() == 0)
    }
  }

  @Test func requestsPastTheEndAreRefused() async throws {
    try await misuse { client in
      try client.enter()
      for (offset, length): (UInt64, UInt32) in [
        (Self.byteCount, 1), (Self.byteCount - 1, 2), (.max, 1), (.max - 3, 16),
      ] {
        for (type, error): (UInt16, UInt32) in [(0, invalid), (4, invalid), (5, invalid), (6, noSpace)] {
          try client.request(type, offset: offset, length: length)
          #expect(try client.simpleReply() == error, "command \(type) at \(offset)")
        }
        try client.request(1, offset: offset, length: length, [UInt8](repeating: 1, count: Int(length)))
        #expect(try client.simpleReply() == noSpace)
      }
      try client.expectAlive()
    }
  }

  /// A device with blocks of 512: what a client asks for needn't keep to them.
  @Test func rangesThatNoBlockFitsAreCarriedOut() async throws {
    try await misuse(alignment: 512) { client in
      try client.enter()
      for (offset, length): (UInt64, UInt32) in [(1, 512), (0, 511), (256, 256), (511, 2), (1, 1)] {
        let bytes = [UInt8](repeating: UInt8(length & 0xff | 1), count: Int(length))
        try client.request(1, offset: offset, length: length, bytes)
        #expect(try client.simpleReply() == 0)
        for type: UInt16 in [5, 4, 6] {
          // The bytes are there, whatever a TRIM beside them leaves out; then zeroes.
          try client.request(0, offset: offset, length: length)
          #expect(try client.simpleReply() == 0)
          #expect(try client.receive(Int(length)) == bytes)
          try client.request(type, offset: offset + (type == 4 ? 1024 : 0), length: length)
          #expect(try client.simpleReply() == 0)
        }
        try client.request(0, offset: offset, length: length)
        #expect(try client.simpleReply() == 0)
        #expect(try client.receive(Int(length)) == [UInt8](repeating: 0, count: Int(length)))
      }
      try client.expectAlive()
    }
  }

  @Test func writeAboveTheMaximumEndsTheConnection() async throws {
    try await misuse { client in
      try client.enter()
      try client.request(1, length: (32 << 20) + 1)
      #expect(client.isEnded)
    }
  }

  @Test func readAboveTheMaximumIsRefused() async throws {
    try await withWorld { world in
      try world.publish(MemoryDevice(byteCount: 1 << 30))
      try await RawClient.with(world.socketPath) { client in
        try client.enter()
        try client.request(0, length: (32 << 20) + 1)
        #expect(try client.simpleReply() == invalid)
        try client.expectAlive()
      }
      try await RawClient.with(world.socketPath) { client in
        try client.enter(structured: true)
        try client.request(0, length: (32 << 20) + 1)
        #expect(try client.chunk().error == overflow)
      }
    }
  }

  /// Once structured replies are agreed on, no READ gets a simple reply, not even an error.
  @Test func structuredReadsAreAnsweredInChunksOnly() async throws {
    try await misuse { client in
      try client.enter(structured: true)
      try client.request(0, offset: Self.byteCount, length: 512)
      let chunk = try client.chunk()
      #expect(chunk.type == 0x8001 && chunk.error == invalid && chunk.isLast)
      try client.request(0, length: 4096)
      let hole = try client.chunk()
      #expect(hole.type == 2 && hole.isLast && hole.payload == big(UInt64(0)) + big(UInt32(4096)))
      try client.request(0, flags: 4, length: 4096)
      let data = try client.chunk()
      #expect(data.type == 1 && data.payload.count == 4104)
      try client.request(0, length: 0)
      #expect(try client.chunk().type == 0)
    }
  }

  /// With DF a READ has one content chunk, however long it is.
  @Test func readThatMustNotFragmentComesInOneChunk() async throws {
    try await misuse { client in
      try client.enter(structured: true)
      try client.request(0, flags: 4, length: UInt32(Self.byteCount))
      let data = try client.chunk()
      #expect(data.type == 1 && data.payload.count == Int(Self.byteCount) + 8)
      if !data.isLast { #expect(try client.chunk().type == 0) }
      try client.expectAlive()
    }
  }

  @Test func readOnlyExportRefusesChanges() async throws {
    try await misuse(isReadOnly: true) { client in
      try client.enter()
      try client.request(1, length: 4, [1, 2, 3, 4])
      #expect(try client.simpleReply() == permission)
      for type: UInt16 in [4, 6] {
        try client.request(type, length: 512)
        #expect(try client.simpleReply() == permission)
      }
      // FLUSH isn't offered here.
      try client.request(3)
      #expect(try client.simpleReply() == invalid)
    }
  }

  @Test func blockStatusWithoutContextsIsInvalid() async throws {
    try await misuse { client in
      try client.enter(structured: true)
      try client.request(7, length: 4096)
      #expect(try client.chunk().error == invalid)
    }
    try await misuse { client in
      try client.enter()
      try client.request(7, length: 4096)
      #expect(try client.simpleReply() == invalid)
    }
  }

  @Test func reqOneBringsOneExtentInsideTheRequest() async throws {
    try await misuse { client in
      try client.enter(structured: true, contexts: ["base:allocation", "qemu:allocation-depth"])
      try client.request(7, flags: 8, offset: 4096, length: 1024)
      let (first, second) = (try client.chunk(), try client.chunk())
      #expect(first.payload == big(UInt32(1)) + big(UInt32(1024)) + big(UInt32(3)))
      #expect(second.payload == big(UInt32(2)) + big(UInt32(1024)) + big(UInt32(0)))
      #expect(!first.isLast && second.isLast)
      try client.request(7, length: 0)
      #expect(try client.chunk().error == invalid)
    }
  }

  @Test func fastZeroFailsFastWhereZeroesAreSlow() async throws {
    try await misuse(zeroesFast: false) { client in
      try client.enter()
      try client.request(6, flags: 16, length: 8192)
      #expect(try client.simpleReply() == notSupported)
      try client.request(6, length: 8192)
      #expect(try client.simpleReply() == 0)
    }
  }

  @Test func flushWithARangeIsInvalid() async throws {
    try await misuse { client in
      try client.enter()
      try client.request(3, offset: 512, length: 512)
      #expect(try client.simpleReply() == invalid)
    }
  }

  /// Flag 32 is PAYLOAD_LEN, which QEMU's client leaves out of a WRITE.
  @Test(arguments: [0, 32] as [UInt16]) func extendedWriteHasItsPayloadWithAndWithoutTheFlag(_ flag: UInt16)
    async throws
  {
    try await misuse { client in
      try client.enter(structured: true, extended: true)
      // Payloads that would be taken for requests where the server left them in the stream.
      let bytes = [UInt8](repeating: 0x5a, count: 4096)
      try client.extendedRequest(1, flags: flag, offset: 8192, length: 4096, bytes)
      let done = try client.chunk()
      #expect(done.type == 0 && done.isLast)
      try client.extendedRequest(0, flags: 4, offset: 8192, length: 4096)
      let read = try client.chunk()
      #expect(read.type == 1 && Array(read.payload.dropFirst(8)) == bytes)
      if !read.isLast { #expect(try client.chunk().type == 0) }
      // A refused WRITE's payload is read past.
      try client.extendedRequest(1, flags: flag, offset: Self.byteCount, length: 4096, bytes)
      #expect(try client.chunk().error == noSpace)
      try client.extendedRequest(1, flags: flag | 8, length: 300 << 10, [UInt8](repeating: 0x5a, count: 300 << 10))
      #expect(try client.chunk().error == invalid)
      try client.extendedRequest(1, flags: flag | 1, length: 0)
      #expect(try client.chunk().type == 0)
      try client.extendedRequest(3)
      #expect(try client.chunk().type == 0)
      try client.extendedRequest(1, flags: flag, length: (32 << 20) + 1)
      #expect(client.isEnded)
    }
  }

  @Test func readOnlyExportReadsPastExtendedWrites() async throws {
    try await misuse(isReadOnly: true) { client in
      try client.enter(structured: true, extended: true)
      for flag: UInt16 in [0, 32] {
        try client.extendedRequest(1, flags: flag, length: 512, [UInt8](repeating: 0x5a, count: 512))
        #expect(try client.chunk().error == permission)
      }
      try client.extendedRequest(0, length: 512)
      #expect(try client.chunk().type == 2)
    }
  }

  @Test func extendedCommandsButWriteAndStatusRefuseAPayload() async throws {
    try await misuse { client in
      try client.enter(extended: true)
      for type: UInt16 in [0, 4, 6, 7] {
        try client.extendedRequest(type, flags: 32, length: 16, [UInt8](repeating: 9, count: 16))
        #expect(try client.chunk().error == invalid)
      }
      try client.extendedRequest(1, flags: 32, length: 4, [1, 2, 3, 4])
      let done = try client.chunk()
      #expect(done.type == 0 && done.isLast)
      try client.extendedRequest(3)
      #expect(try client.chunk().type == 0)
    }
  }

  @Test func statusPayloadMustNameSelectedContextsOnce() async throws {
    try await misuse { client in
      try client.enter(contexts: ["base:allocation", "qemu:allocation-depth"], extended: true)
      let length = big(UInt64(4096))
      for ids: [UInt32] in [[], [1, 1], [77], [1, 2, 3]] {
        let payload = length + ids.flatMap { big($0) }
        try client.extendedRequest(7, flags: 32, length: UInt64(payload.count), payload)
        #expect(try client.chunk().error == invalid, "\(ids)")
      }
      for wrong in [big(UInt64(0)), big(UInt64.max), big(Self.byteCount + 1)] {
        try client.extendedRequest(7, flags: 32, length: 12, wrong + big(UInt32(1)))
        #expect(try client.chunk().error == invalid)
      }
      try client.extendedRequest(7, flags: 32, length: 12, length + big(UInt32(2)))
      let chunk = try client.chunk()
      #expect(chunk.type == 6 && chunk.isLast)
      #expect(chunk.payload == big(UInt32(2)) + big(UInt32(1)) + big(UInt64(4096)) + big(UInt64(0)))
    }
  }

  /// Half a request and then silence holds up nobody but its sender.
  @Test func silentClientsHoldUpNobody() async throws {
    try await withWorld(loopCount: 1) { world in
      try world.publish(MemoryDevice(sampleImage(1 << 20)))
      let silent = try (0..<20).map { _ in try RawClient(world.socketPath) }
      for (index, client) in silent.enumerated() {
        try client.enter(structured: index % 2 == 0)
        // Some ask for more than they ever take.
        if index % 3 == 0 {
          for cookie in 0..<200 { try client.request(0, cookie: UInt64(cookie), length: 1 << 20) }
        }
        try client.request(1, length: 1 << 20, [UInt8](repeating: 1, count: 1000))
      }
      let bytes = try await world.withClient("disk") { _, device in try await device.readAll() }
      #expect(bytes.count == 1 << 20)
      #expect(world.server.connectionCount == 20)
      _ = silent.count
    }
  }
}
