import BlockCore
import BlockTesting
import Bytes
import EventLoops
import Foundation
import NBD
import Testing

/// Our client against our server.
@Suite struct ClientTests {
  @Test(arguments: Style.allCases) func clientAgreesOnTheStyleItWishes(_ style: Style) async throws {
    try await withWorld { world in
      try world.publish(MemoryDevice(byteCount: 1 << 20))
      try await world.withClient("disk", style.options) { _, device in
        #expect(device.agreement.style == style.headers)
        #expect(device.byteCount == 1 << 20)
        #expect(device.agreement.contexts.count == (style == .simple ? 0 : 2))
        #expect(device.agreement.flags.contains(.blockStatusPayload) == (style == .extended))
        #expect(device.agreement.flags.contains(.sendDF) == (style != .simple))
      }
    }
  }

  /// The whole suite of the block port, through the wire, in each style, over a device that answers at once and over
  /// one that makes every request wait.
  @Test(arguments: BlockDeviceConformance.Check.allCases, Style.allCases)
  func conforms(_ check: BlockDeviceConformance.Check, _ style: Style) async throws {
    for isSlow in [false, true] {
      try await withWorld { world in
        let traits = Self.traits(style)
        let make: @Sendable (UInt64, Bool) async throws -> NBDURI = { byteCount, isReadOnly in
          var options = MemoryDevice.Options()
          options.answersTryRead = !isSlow
          options.interleavingSeed = isSlow ? 11 : nil
          var exportOptions = NBDExport.Options()
          exportOptions.isReadOnly = isReadOnly
          let name = UUID().uuidString
          try world.publish(
            MemoryDevice(byteCount: byteCount, options: options), as: name, isDefault: false, options: exportOptions)
          return try NBDURI(world.uri(name))
        }
        try await atHome(world.loops) { home in
          let suite = BlockDeviceConformance(
            traits,
            makeReadOnly: { try await NBDDevice.open(try await make($0, true), style.options, on: home.loop) },
            reopen: { closed in
              let uri = (closed as? NBDDevice)?.uri
              return try await NBDDevice.open(try #require(uri), style.options, on: home.loop)
            },
            make: { try await NBDDevice.open(try await make($0, false), style.options, on: home.loop) })
          try await suite.run(check)
        }
      }
    }
  }

  private static func traits(_ style: Style) -> BlockDeviceConformance.Traits {
    var traits = BlockDeviceConformance.Traits()
    traits.resizes = false
    traits.tellsZeroes = style != .simple
    return traits
  }

  /// A client is never told the alignment of the device behind the export.
  @Test func unalignedRequestsReachAnAlignedDeviceWhole() async throws {
    try await withWorld { world in
      var limits = BlockLimits()
      limits.requestAlignment = 4096
      limits.maximumTransferByteCount = 64 << 10
      var options = MemoryDevice.Options()
      options.limits = limits
      options.interleavingSeed = 5
      try world.publish(MemoryDevice(byteCount: 1 << 20, options: options))
      let output = try await Tool.check(
        "/usr/bin/python3", ["-c", Self.unalignedScript, world.uri("disk")])
      #expect(output.contains("same"))
    }
  }

  // The server has to take what comes, several at once on one block.
  private static let unalignedScript = """
    nbd, sys, random = map(__import__, ("nbd", "sys", "random"))
    h = nbd.NBD()
    h.connect_uri(sys.argv[1])
    assert h.get_block_size(nbd.SIZE_MINIMUM) == 1
    random.seed(3)
    model = bytearray(1 << 20)
    for turn in range(60):
        offset = random.randrange(0, (1 << 20) - 9000)
        buffers = []
        for part in range(8):
            data = random.randbytes(random.randrange(1, 900))
            at = offset + part * 1000
            model[at:at+len(data)] = data
            buffers.append(h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(data)), at))
        while h.aio_in_flight() > 0:
            h.poll(-1)
        for cookie in buffers:
            assert h.aio_command_completed(cookie)
        start = random.randrange(0, (1 << 20) - 70000)
        count = random.randrange(1, 5000)
        h.zero(count, start)
        model[start:start+count] = bytes(count)
        h.trim(1, start + count)
    assert h.pread(1 << 20, 0) == model
    assert h.pread(777, 333) == model[333:333+777]
    print("same")
    """

  @Test(arguments: [Style.structured, .extended]) func severalContextsAreToldAtOnce(_ style: Style) async throws {
    try await withWorld { world in
      var image = SparseImage(byteCount: 1 << 20)
      image.write([UInt8](repeating: 1, count: 4096).span.bytes, at: 0)
      var exportOptions = NBDExport.Options()
      exportOptions.contexts.append(EvenBlocks())
      try world.publish(MemoryDevice(image), options: exportOptions)
      var options = style.options
      options.contexts = ["base:allocation", "qemu:allocation-depth", "qemu:dirty-bitmap:even", "base:unheard"]
      try await world.withClient("disk", options) { _, device in
        #expect(device.agreement.contexts.count == 3)
        let all = try await device.contextExtents(in: ByteRange(offset: 0, length: 131072), limit: 10)
        #expect(all["base:allocation"] == [.init(length: 4096, flags: 0), .init(length: 126976, flags: 3)])
        #expect(all["qemu:allocation-depth"] == [.init(length: 4096, flags: 1), .init(length: 126976, flags: 0)])
        #expect(all["qemu:dirty-bitmap:even"] == [.init(length: 65536, flags: 1), .init(length: 65536, flags: 0)])
        let one = try await device.contextExtents(
          of: ["qemu:dirty-bitmap:even"], in: ByteRange(offset: 100, length: 1000), limit: 1)
        #expect(one == ["qemu:dirty-bitmap:even": [.init(length: 1000, flags: 1)]])
      }
    }
  }

  @Test func extendedHeadersCarryRangesPast4GiB() async throws {
    try await withWorld { world in
      let device = MemoryDevice(byteCount: 1 << 40, blockByteCount: 1 << 20)
      try world.publish(device)
      try await world.withClient("disk", Style.extended.options) { _, client in
        let range = ByteRange(offset: 0, length: 10 << 30)
        try await client.writeZeroes(range, options: .mayUnmap)
        let extents = try await client.blockStatus(range, limit: 4)
        #expect(extents == [Extent(range: range, status: [.zero, .hole], depth: 0)])
      }
      try await world.withClient("disk", Style.structured.options) { _, client in
        let range = ByteRange(offset: 0, length: 10 << 30)
        try await client.writeZeroes(range, options: .mayUnmap)
        let extents = try await client.blockStatus(range, limit: 4)
        #expect(extents.first?.range.offset == 0)
        #expect(extents.allSatisfy { $0.status == [.zero, .hole] })
      }
      // One with extended headers, ten without.
      #expect(device.calls[.writeZeroes] == 11)
    }
  }

  @Test func severalConnectionsShareTheWork() async throws {
    let image = sampleImage(4 << 20)
    try await withWorld { world in
      let export = try world.publish(MemoryDevice(image))
      var options = NBDDevice.Options()
      options.connectionCount = 4
      let bytes = try await world.withClient("disk", options) { home, device in
        try await eventually("all connections are in use") { export.figures.clientCount == 4 }
        return try await device.readAll()
      }
      let original = MemoryDevice(image)
      #expect(try await original.readAll() == bytes)
    }
  }

  @Test func errorsOfTheDeviceReachTheClient() async throws {
    try await withWorld { world in
      let faulty = FaultyDevice(
        MemoryDevice(byteCount: 1 << 20),
        fault: Fault(atCall: 1, of: [.write], .noSpace))
      try world.publish(faulty)
      for style in Style.allCases {
        faulty.fault = Fault(atCall: 1, of: [.write], .noSpace)
        try await world.withClient("disk", style.options) { _, device in
          do {
            try await device.writeBytes([1, 2, 3], at: 0)
            Issue.record("a write that failed was answered as done")
          } catch let error as BlockError {
            #expect(error.kind == .noSpace)
          }
          // The connection goes on.
          try await device.writeBytes([1, 2, 3], at: 0)
          #expect(try await device.readBytes(3, at: 0) == [1, 2, 3])
        }
      }
    }
  }

  @Test func unknownExportIsRefusedWithItsName() async throws {
    try await withWorld { world in
      try world.publish(MemoryDevice(byteCount: 4096), isDefault: false)
      try await Self.expectUnknown("other", world)
      try await world.withClient("disk") { _, device in #expect(device.byteCount == 4096) }
    }
  }

  private static func expectUnknown(_ name: String, _ world: World) async throws {
    let error = await #expect(throws: BlockError.self) { try await world.withClient(name) { _, _ in } }
    #expect(error?.description.contains("ERR_UNKNOWN") == true, "\(String(describing: error))")
  }

  @Test func emptyNameFindsTheOnlyExport() async throws {
    try await withWorld { world in
      try await Self.expectUnknown("", world)
      try world.publish(MemoryDevice(byteCount: 4096), isDefault: false)
      try await world.withClient("") { _, device in #expect(device.byteCount == 4096) }
      // With another beside it the name doesn't tell which, and later it may be a reconnecting client of the other.
      let other = try world.publish(MemoryDevice(byteCount: 8192), as: "other", isDefault: false)
      try await Self.expectUnknown("", world)
      try await world.withClient("other") { _, device in #expect(device.byteCount == 8192) }
      try await world.listener.remove(other, .hard(grace: .zero))
      try await Self.expectUnknown("", world)
    }
  }

  @Test func emptyNameFindsTheDefaultAmongSeveral() async throws {
    try await withWorld { world in
      try world.publish(MemoryDevice(byteCount: 4096), isDefault: false)
      let standard = try world.publish(MemoryDevice(byteCount: 8192), as: "other")
      try await world.withClient("") { _, device in #expect(device.byteCount == 8192) }
      try await world.listener.remove(standard, .hard(grace: .zero))
      try await Self.expectUnknown("", world)
    }
  }
}
