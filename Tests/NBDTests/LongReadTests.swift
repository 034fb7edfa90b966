import BlockCore
import BlockTesting
import EventLoops
import Foundation
import NBD
import RawFile
import Testing

/// Long READs of a file, which go by pipe where that is possible.
@Suite struct LongReadTests {
  private static let byteCount = 6 << 20

  /// Runs `body` with an export of a raw file of these bytes.
  private static func withFile(
    _ bytes: [UInt8], options: NBDServerOptions = NBDServerOptions(), _ body: (World, NBDExport) async throws -> Void
  ) async throws {
    try await withWorld(options) { world in
      let path = world.folder.file("disk")
      try Data(bytes).write(to: URL(fileURLWithPath: path))
      let loop = world.loops.next()
      let device = try await loop.run { try await RawFile.open(.path(path), .init(isReadOnly: false), on: loop) }
      let export = NBDExport(name: "disk", device: device, loop: loop)
      try world.listener.publish(export, isDefault: true)
      try await body(world, export)
      try await export.remove(.hard(grace: .seconds(2)))
      try await loop.run { try await device.close() }
      #expect(world.server.lentPipeCount == 0)
    }
  }

  private static func bytes(seed: UInt64) -> [UInt8] {
    var random = SeededRandom(seed: seed)
    return random.bytes(byteCount)
  }

  /// Reads by structured chunks: the bytes, and how many chunks told of a hole.
  private static func read(
    _ client: RawClient, at offset: Int, _ count: Int, dontFragment: Bool = false
  ) throws -> (bytes: [UInt8], holeCount: Int) {
    try client.request(0, flags: dontFragment ? 1 << 2 : 0, cookie: 9, offset: UInt64(offset), length: UInt32(count))
    var result = [UInt8](repeating: 0xEE, count: count)
    var holeCount = 0
    while true {
      let chunk = try client.chunk()
      #expect(chunk.cookie == 9)
      if chunk.type == 0 { break }
      let start = Int(number(chunk.payload[0..<8])) - offset
      if chunk.type == 2 {
        let length = Int(number(chunk.payload[8..<12]))
        result.replaceSubrange(start..<start + length, with: repeatElement(0, count: length))
        holeCount += 1
      } else {
        try #require(chunk.type == 1)
        result.replaceSubrange(start..<start + chunk.payload.count - 8, with: chunk.payload[8...])
      }
      if chunk.isLast { break }
    }
    return (result, holeCount)
  }

  @Test func longReadsBringEveryByteWhateverTheirPlaceAndForm() async throws {
    let bytes = Self.bytes(seed: 21)
    try await Self.withFile(bytes) { world, _ in
      try await RawClient.with(world.socketPath) { client in
        try client.enter(structured: true)
        for (offset, count) in [(0, 5 << 20), (4096, 1 << 20), (1234, 700_001), (5 << 20, 1 << 20), (4097, 256 << 10)] {
          let found = try Self.read(client, at: offset, count)
          #expect(found.bytes == Array(bytes[offset..<offset + count]), "\(count) bytes at \(offset)")
          let whole = try Self.read(client, at: offset, count, dontFragment: true)
          #expect(whole.bytes == found.bytes)
        }
      }
      try await RawClient.with(world.socketPath) { client in
        try client.enter()
        try client.request(0, cookie: 4, offset: 999, length: 2 << 20)
        #expect(try client.simpleReply(cookie: 4) == 0)
        #expect(try client.receive(2 << 20) == Array(bytes[999..<999 + (2 << 20)]))
      }
    }
  }

  @Test func zeroesAreStillToldAsHoles() async throws {
    var bytes = Self.bytes(seed: 22)
    bytes.replaceSubrange(1 << 20..<3 << 20, with: repeatElement(0, count: 2 << 20))
    try await Self.withFile(bytes) { [bytes] world, _ in
      try await RawClient.with(world.socketPath) { client in
        try client.enter(structured: true)
        let found = try Self.read(client, at: 1 << 20, 2 << 20)
        #expect(found.bytes == Array(bytes[1 << 20..<3 << 20]))
        #expect(found.holeCount > 0)
      }
    }
  }

  @Test func manyClientsShareFewPipesWithoutMixingTheirBytes() async throws {
    let bytes = Self.bytes(seed: 23)
    try await Self.withFile(bytes) { world, _ in
      let path = world.socketPath
      try await withThrowingTaskGroup(of: Void.self) { group in
        for index in 0..<24 {
          group.addTask {
            try await RawClient.with(path) { client in
              try client.enter(structured: true)
              for step in 0..<3 {
                let offset = (index * 131_072 + step * 4096) % (3 << 20)
                let found = try Self.read(client, at: offset, 2 << 20)
                #expect(found.bytes == Array(bytes[offset..<offset + (2 << 20)]))
              }
            }
          }
        }
        try await group.waitForAll()
      }
    }
  }

  @Test func shortAnswersComeBetweenTheChunksOfALongOne() async throws {
    let bytes = Self.bytes(seed: 24)
    try await Self.withFile(bytes) { world, _ in
      try await RawClient.with(world.socketPath) { client in
        try client.enter(structured: true)
        try client.request(0, cookie: 1, offset: 0, length: UInt32(Self.byteCount))
        for cookie in 2..<40 { try client.request(0, cookie: UInt64(cookie), offset: 8192, length: 512) }
        var open = Set<UInt64>((1..<40).map { UInt64($0) })
        var long = 0
        while !open.isEmpty {
          let chunk = try client.chunk()
          try #require(chunk.type == 1 && open.contains(chunk.cookie))
          let start = Int(number(chunk.payload[0..<8]))
          #expect(Array(chunk.payload[8...]) == Array(bytes[start..<start + chunk.payload.count - 8]))
          if chunk.cookie == 1 { long += chunk.payload.count - 8 }
          if chunk.isLast { open.remove(chunk.cookie) }
        }
        #expect(long == Self.byteCount)
      }
    }
  }

  @Test func clientThatLeavesAmidALongReadLeavesNoPipeBehind() async throws {
    try await Self.withFile(Self.bytes(seed: 25)) { world, export in
      for _ in 0..<20 {
        try await RawClient.with(world.socketPath) { client in
          try client.enter(structured: true)
          for cookie in 0..<4 { try client.request(0, cookie: UInt64(cookie), offset: 0, length: 4 << 20) }
          _ = try client.receive(100_000)
        }
      }
      try await eventually("clients that are gone are forgotten") { export.figures.clientCount == 0 }
      try await eventually("their pipes are back") { world.server.lentPipeCount == 0 }
    }
  }
}
