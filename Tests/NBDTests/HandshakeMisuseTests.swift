import BlockTesting
import EventLoops
import NBD
import Testing

private let unsupported: UInt32 = 1 << 31 | 1
private let policy: UInt32 = 1 << 31 | 2
private let invalid: UInt32 = 1 << 31 | 3
private let unknown: UInt32 = 1 << 31 | 6
private let tooBig: UInt32 = 1 << 31 | 9
private let extendedRequired: UInt32 = 1 << 31 | 10

/// What a server answers to clients that get the handshake wrong. Each time it goes on serving others.
@Suite struct HandshakeMisuseTests {
  private func misuse(
    _ options: NBDServerOptions = NBDServerOptions.patient, _ body: @Sendable @escaping (RawClient) throws -> Void
  ) async throws {
    try await withWorld(options, loopCount: 1) { world in
      try world.publish(MemoryDevice(byteCount: 1 << 20))
      try world.publishForBystanders()
      let path = world.socketPath
      try await Bystander.watch(world) { () throws in try body(try RawClient(path)) }
    }
  }

  @Test func unknownClientFlagsEndTheConnection() async throws {
    try await misuse { client in
      try client.greet(flags: 7)
      #expect(client.isEnded)
    }
  }

  @Test func garbageInPlaceOfAnOptionEndsTheConnection() async throws {
    try await misuse { client in
      try client.greet()
      try client.send([UInt8](repeating: 0x5a, count: 16))
      #expect(client.isEnded)
    }
  }

  @Test func garbageInPlaceOfTheFlagsEndsTheConnection() async throws {
    try await misuse { client in
      _ = try client.receive(18)
      try client.send(Array("GET / HTTP/1.1\r\n\r\n".utf8))
      #expect(client.isEnded)
    }
  }

  @Test(arguments: [0, 2, 4, 10, 20, 25]) func cutInTheHandshakeLeavesNothing(_ count: Int) async throws {
    try await misuse { client in
      _ = try client.receive(18)
      let whole = big(UInt32(3)) + Array("IHAVEOPT".utf8) + big(UInt32(7)) + big(UInt32(100)) + [0, 0, 0, 4]
      try client.send(Array(whole.prefix(count)))
      client.endSending()
      #expect(client.isEnded)
    }
  }

  @Test func unknownOptionIsRefusedAndItsPayloadReadPast() async throws {
    try await misuse { client in
      try client.greet()
      try client.option(99, [UInt8](repeating: 7, count: 5000))
      #expect(try client.optionReplies() == [unsupported])
      try client.option(3)
      #expect(try client.optionReplies() == [2, 2, 1])
    }
  }

  @Test func optionThatIsTooLongIsReadPast() async throws {
    try await misuse { client in
      try client.greet()
      try client.option(7, [UInt8](repeating: 7, count: 200_000))
      #expect(try client.optionReplies() == [tooBig])
      try client.option(2)
      #expect(try client.optionReplies() == [1])
      #expect(client.isEnded)
    }
  }

  @Test func optionThatIsFarTooLongEndsTheConnection() async throws {
    try await misuse { client in
      try client.greet()
      try client.send(Array("IHAVEOPT".utf8) + big(UInt32(7)) + big(UInt32.max))
      #expect(client.isEnded)
    }
  }

  @Test func optionsWithoutDataRefuseData() async throws {
    try await misuse { client in
      try client.greet()
      for option: UInt32 in [3, 5, 8, 11] {
        try client.option(option, [1, 2, 3])
        #expect(try client.optionReplies() == [invalid], "option \(option)")
      }
    }
  }

  @Test func goWithLengthsThatLieIsInvalid() async throws {
    try await misuse { client in
      try client.greet()
      let payloads: [[UInt8]] = [
        [], [0, 0], big(UInt32(100)) + [0, 0], big(UInt32.max) + [0, 0], big(UInt32(0)) + [0, 5, 0, 1],
        RawClient.goPayload("disk") + [0], big(UInt32(2)) + [0xff, 0xfe, 0, 0], big(UInt32(2)) + [65, 0, 0, 0],
      ]
      for payload in payloads {
        try client.option(7, payload)
        #expect(try client.optionReplies() == [invalid], "\(payload)")
      }
      try client.option(7, RawClient.goPayload("disk"))
      #expect(try client.optionReplies() == [3, 3, 1])
      try client.expectAlive()
    }
  }

  @Test func unknownExportIsUnknown() async throws {
    try await misuse { client in
      try client.greet()
      try client.option(6, RawClient.goPayload("nowhere"))
      #expect(try client.optionReplies() == [unknown])
      try client.option(7, RawClient.goPayload("nowhere"))
      #expect(try client.optionReplies() == [unknown])
    }
  }

  @Test func exportNameOfNothingEndsTheConnection() async throws {
    try await misuse { client in
      try client.greet()
      try client.option(1, Array("nowhere".utf8))
      #expect(client.isEnded)
    }
  }

  @Test(arguments: [UInt32(1), 3]) func exportNameEntersWithAndWithoutZeroes(_ flags: UInt32) async throws {
    try await misuse { client in
      try client.greet(flags: flags)
      try client.option(1, Array("disk".utf8))
      let answer = try client.receive(flags == 3 ? 10 : 134)
      #expect(number(answer[0..<8]) == 1 << 20)
      try client.expectAlive()
    }
  }

  @Test func clientWithoutFixedNewstyleMayOnlyNameItsExport() async throws {
    try await misuse { client in
      try client.greet(flags: 0)
      try client.option(3)
      #expect(client.isEnded)
    }
    try await misuse { client in
      try client.greet(flags: 0)
      try client.option(1, Array("disk".utf8))
      #expect(try client.receive(134).count == 134)
      try client.expectAlive()
    }
  }

  @Test func secondNegotiationOfTheSameIsInvalid() async throws {
    try await misuse { client in
      try client.greet()
      try client.option(8)
      #expect(try client.optionReplies() == [1])
      try client.option(8)
      #expect(try client.optionReplies() == [invalid])
      try client.option(11)
      #expect(try client.optionReplies() == [1])
      try client.option(11)
      #expect(try client.optionReplies() == [invalid])
      try client.option(8)
      #expect(try client.optionReplies() == [extendedRequired])
    }
  }

  @Test func exportNameAfterExtendedHeadersEndsTheConnection() async throws {
    try await misuse { client in
      try client.greet()
      try client.option(11)
      #expect(try client.optionReplies() == [1])
      try client.option(1, Array("disk".utf8))
      #expect(client.isEnded)
    }
  }

  @Test func contextsBeforeStructuredRepliesAreInvalid() async throws {
    try await misuse { client in
      try client.greet()
      for option: UInt32 in [9, 10] {
        try client.option(option, RawClient.contextPayload("disk", ["base:allocation"]))
        #expect(try client.optionReplies() == [invalid])
      }
    }
  }

  @Test func wildcardsAreForListingOnly() async throws {
    try await misuse { client in
      try client.greet()
      try client.option(8)
      _ = try client.optionReplies()
      for (queries, count) in [([], 2), (["base:"], 1), (["qemu:"], 1), (["x-other:"], 0), (["nocolon"], 0)] {
        try client.option(9, RawClient.contextPayload("disk", queries))
        #expect(try client.optionReplies() == [UInt32](repeating: 4, count: count) + [1], "\(queries)")
      }
      for queries in [[], ["base:"], ["qemu:"], ["nocolon"]] {
        try client.option(10, RawClient.contextPayload("disk", queries))
        #expect(try client.optionReplies() == [1], "\(queries)")
      }
      try client.option(10, RawClient.contextPayload("disk", ["base:allocation", "qemu:allocation-depth"]))
      #expect(try client.optionReplies() == [4, 4, 1])
    }
  }

  @Test func queriesWithLengthsThatLieAreInvalid() async throws {
    try await misuse { client in
      try client.greet()
      try client.option(8)
      _ = try client.optionReplies()
      let name = big(UInt32(4)) + Array("disk".utf8)
      for rest: [UInt8] in [[], big(UInt32.max), big(UInt32(1)) + big(UInt32(50)) + [1], big(UInt32(0)) + [9]] {
        try client.option(10, name + rest)
        #expect(try client.optionReplies() == [invalid])
      }
    }
  }

  /// Contexts that were selected on one export don't hold for another, nor after a selection that failed.
  @Test(arguments: [true, false]) func contextsOfAnotherExportAreNotSelected(_ fails: Bool) async throws {
    try await misuse { client in
      try client.greet()
      try client.option(8)
      _ = try client.optionReplies()
      try client.option(10, RawClient.contextPayload(fails ? "disk" : "other", ["base:allocation"]))
      #expect(try client.optionReplies() == [4, 1])
      if fails {
        try client.option(10, RawClient.contextPayload("nowhere", ["base:allocation"]))
        #expect(try client.optionReplies() == [unknown])
      }
      try client.option(7, RawClient.goPayload("disk"))
      _ = try client.optionReplies()
      try client.request(7, length: 4096)
      #expect(try client.chunk().error == 22)
    }
  }

  @Test func startTLSWithoutTLSIsAgainstThePolicy() async throws {
    try await misuse { client in
      try client.greet()
      try client.option(5)
      #expect(try client.optionReplies() == [policy])
    }
  }

  @Test func silenceInTheHandshakeEndsInTime() async throws {
    var options = NBDServerOptions.patient
    options.handshakeTimeout = .milliseconds(1500)
    try await misuse(options) { client in
      try client.greet()
      try client.send(Array("IHAVE".utf8))
      #expect(client.isEnded)
    }
  }
}
