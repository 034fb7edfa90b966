import BlockCore
import BlockTesting
import Foundation
import Locks
import NBD
import Testing

/// A client that does everything right, connected before others misbehave: it must read the right bytes all the time.
enum Bystander {
  static let exportName = "other"
  static let byteCount = 128 << 10
  static let image = sampleImage(byteCount, seed: 71)
  static let bytes: [UInt8] = {
    var bytes = [UInt8](repeating: 0, count: byteCount)
    var span = bytes.mutableSpan
    var target = span.mutableBytes
    image.read(into: &target, at: 0)
    return bytes
  }()

  /// Runs blocking `body` while a bystander is connected; it and a newcomer must be served as if nothing had happened.
  static func watch<Result: Sendable>(
    _ world: World, _ body: @Sendable @escaping () throws -> Result
  ) async throws -> Result {
    let path = world.socketPath
    return try await RawClient.with(path) { bystander in
      try bystander.enter(exportName)
      try bystander.expectSample()
      let result = try body()
      try bystander.expectSample()
      let newcomer = try RawClient(path)
      try newcomer.enter(exportName)
      try newcomer.expectSample()
      return result
    }
  }

  /// The same for an `async` body; the bystander's thread waits for it.
  static func watch<Result: Sendable>(
    _ world: World, _ body: @Sendable @escaping () async throws -> Result
  ) async throws -> Result {
    try await watch(world) { () throws in
      let outcome = Lock<Swift.Result<Result, any Error>?>(nil)
      let isDone = DispatchSemaphore(value: 0)
      Task {
        do {
          let result = try await body()
          outcome.withLock { $0 = .success(result) }
        } catch {
          outcome.withLock { $0 = .failure(error) }
        }
        isDone.signal()
      }
      isDone.wait()
      return try #require(outcome.withLock { $0 }).get()
    }
  }
}

extension World {
  /// Publishes what bystanders read.
  func publishForBystanders() throws {
    try publish(MemoryDevice(Bystander.image), as: Bystander.exportName, isDefault: false)
  }
}

extension RawClient {
  /// Reads the bystanders' export in two parts, with simple replies.
  func expectSample() throws {
    let half = Bystander.byteCount / 2
    for offset in [half, 0] {
      try request(0, cookie: UInt64(offset) + 5, offset: UInt64(offset), length: UInt32(half))
      #expect(try simpleReply(cookie: UInt64(offset) + 5) == 0)
      let isRight = try receive(half) == Array(Bystander.bytes[offset..<offset + half])
      #expect(isRight, "a bystander reads something else")
    }
  }
}
