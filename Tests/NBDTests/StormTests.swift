import BlockCore
import BlockTesting
import EventLoops
import Foundation
import Locks
import Testing

@testable import NBD

/// Many clients at once, and what is left of them.
@Suite(.serialized) struct StormTests {
  private static let backends: [IOBackend] =
    IOBackend.refusalOfIOUring() == nil ? [.ioUring, .epoll] : [.epoll]
  private static let clientCount = 200
  private static let regionByteCount = 32 << 10
  /// Seconds that a busy machine may take for what isn't about time.
  private static let patience = 120.0

  /// Open descriptors of this process that are sockets of the listener at `path`: itself, and what it accepted.
  private static func descriptorCount(of path: String) -> Int {
    let names = (try? FileManager.default.contentsOfDirectory(atPath: "/proc/self/fd")) ?? []
    return names.compactMap { Int32($0) }.filter { descriptor in
      var address = sockaddr_un()
      var length = socklen_t(MemoryLayout<sockaddr_un>.size)
      let result = withUnsafeMutablePointer(to: &address) {
        $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { getsockname(descriptor, $0, &length) }
      }
      guard result == 0, address.sun_family == sa_family_t(AF_UNIX) else { return false }
      return withUnsafeBytes(of: &address.sun_path) { $0.prefix(path.utf8.count).elementsEqual(path.utf8) }
    }.count
  }

  /// Works in a region of its own; every other client leaves in the middle of a request, in one of several ways.
  private static func work(_ client: RawClient, _ index: Int, _ everybodyIsIn: () -> Void) throws {
    // Without sizes the server takes what isn't aligned.
    try client.enter("busy", structured: index % 3 == 0, asksForSizes: false)
    everybodyIsIn()
    let start = UInt64(index * regionByteCount)
    let data = [UInt8](repeating: UInt8(index % 251 + 1), count: 20_000)
    guard index % 2 == 0 else {
      for turn in 0..<20 {
        try client.request(0, cookie: UInt64(turn), offset: start, length: 30_000)
        if turn % 2 == 0 { try client.request(1, cookie: UInt64(turn), offset: start, length: 20_000, data) }
      }
      switch index / 2 % 3 {
      case 0: return try client.request(1, offset: start, length: 30_000, data)
      case 1: return try client.send(big(UInt32(0x2560_9513)) + [0, 0, 0])
      default: return
      }
    }
    // Not aligned: the server changes blocks in part.
    try client.request(1, cookie: 77, offset: start + 100, length: 20_000, data)
    #expect(try client.simpleReply(cookie: 77) == 0)
    for turn in 0..<20 {
      try client.request(0, flags: index % 3 == 0 ? 4 : 0, cookie: UInt64(turn), offset: start, length: 30_000)
      let bytes: [UInt8]
      if index % 3 == 0 {
        let chunk = try client.chunk()
        #expect(chunk.cookie == UInt64(turn) && chunk.type == 1)
        bytes = Array(chunk.payload.dropFirst(8))
        if !chunk.isLast { #expect(try client.chunk().isLast) }
      } else {
        #expect(try client.simpleReply(cookie: UInt64(turn)) == 0)
        bytes = try client.receive(30_000)
      }
      let isRight = bytes == [UInt8](repeating: 0, count: 100) + data + [UInt8](repeating: 0, count: 9900)
      #expect(isRight, "client \(index), turn \(turn)")
    }
  }

  @Test(arguments: backends) func halfOfManyClientsCutInMidRequestLeaveNothing(_ backend: IOBackend) async throws {
    var options = NBDServerOptions.patient
    options.maximumConnectionCount = Self.clientCount + 20
    try await withWorld(options, backend: .forced(backend)) { world in
      var deviceOptions = MemoryDevice.Options()
      deviceOptions.interleavingSeed = 9
      deviceOptions.answersTryRead = false
      deviceOptions.limits.requestAlignment = 512
      let busy = try world.publish(
        MemoryDevice(byteCount: UInt64(Self.clientCount * Self.regionByteCount), options: deviceOptions), as: "busy")
      let quiet = try world.publish(MemoryDevice(byteCount: 4 << 20), as: "quiet", isDefault: false)
      let isOver = Lock(false)
      async let verified = Self.verify(world.uri("quiet"), until: isOver)
      try await eventually(within: Self.patience, "fio is at work") { quiet.figures[.write].count > 100 }
      let before = quiet.figures[.write].count
      let path = world.socketPath
      let enteredCount = Lock(0)
      let wait: @Sendable () -> Void = {
        enteredCount.withLock { $0 += 1 }
        for _ in 0..<Int(Self.patience * 200) where enteredCount.withLock({ $0 }) < Self.clientCount { usleep(5000) }
      }
      try await withThrowingTaskGroup(of: Void.self) { group in
        for index in 0..<Self.clientCount {
          group.addTask { try await RawClient.with(path) { try Self.work($0, index, wait) } }
        }
        try await group.waitForAll()
      }
      #expect(enteredCount.withLock { $0 } == Self.clientCount)
      #expect(quiet.figures[.write].count > before, "fio was held up")
      isOver.withLock { $0 = true }
      try await verified
      #expect(busy.figures.totalClientCount == Self.clientCount)
      try await eventually(within: Self.patience, "everybody is gone") { world.server.connectionCount == 0 }
      #expect(busy.figures.clientCount == 0)
      #expect(busy.clients.isEmpty)
      #expect(world.server.lentByteCount == 0)
      #expect(busy.lentByteCount == 0)
      // The listener's own is left.
      try await eventually(within: Self.patience, "their sockets are closed") { Self.descriptorCount(of: path) == 1 }
    }
  }

  /// Has fio write and verify, again and again while the storm lasts.
  private static func verify(_ uri: String, until isOver: Lock<Bool>) async throws {
    repeat {
      try await Tool.check(
        "fio",
        [
          "--name=verify", "--ioengine=nbd", "--uri=\(uri)", "--rw=randrw", "--bs=4k", "--iodepth=8",
          "--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0", "--size=4M", "--minimal",
        ])
    } while !isOver.withLock { $0 } && !Task.isCancelled
  }
}
