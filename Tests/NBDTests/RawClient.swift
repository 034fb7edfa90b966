import Foundation
import Glibc
import Testing

/// A client that sends exactly what a test wants sent. Independent of the code under test: it builds and reads every
/// message by hand. Blocking, with a timeout, on a thread of its own.
final class RawClient {
  /// The server has ended the connection while we were sending.
  struct Ended: Error {}

  private let descriptor: Int32

  init(_ path: String) throws {
    descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8) }
    let result = withUnsafePointer(to: &address) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
      }
    }
    try #require(result == 0, "connect: \(errno)")
    var timeout = timeval(tv_sec: 30, tv_usec: 0)
    setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &timeout, socklen_t(MemoryLayout<timeval>.size))
  }

  deinit { close(descriptor) }

  /// Runs blocking `body` with a new client on a thread of its own.
  static func with<Result: Sendable>(
    _ path: String, _ body: @Sendable @escaping (RawClient) throws -> Result
  ) async throws -> Result {
    try await withCheckedThrowingContinuation { continuation in
      Thread {
        continuation.resume(with: Swift.Result { try body(RawClient(path)) })
      }.start()
    }
  }

  func send(_ bytes: [UInt8]) throws {
    var done = 0
    while done < bytes.count {
      let count = bytes.withUnsafeBytes {
        Glibc.send(descriptor, $0.baseAddress! + done, bytes.count - done, Int32(MSG_NOSIGNAL))
      }
      guard count > 0 else { throw Ended() }
      done += count
    }
  }

  /// Exactly `count` bytes, fewer only where the server ended the connection.
  func receive(_ count: Int) throws -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: count)
    var done = 0
    while done < count {
      let result = bytes.withUnsafeMutableBytes { recv(descriptor, $0.baseAddress! + done, count - done, 0) }
      if result < 0, errno == EINTR { continue }
      if result == 0 || (result < 0 && errno == ECONNRESET) { break }
      try #require(result > 0, "recv: \(errno)")
      done += result
    }
    return Array(bytes.prefix(done))
  }

  /// True once the server has ended the connection.
  var isEnded: Bool { (try? receive(1).isEmpty) ?? false }

  func endSending() { shutdown(descriptor, Int32(SHUT_WR)) }

  // MARK: Handshake

  /// Takes the greeting and answers with `flags`.
  func greet(flags: UInt32 = 3) throws {
    let greeting = try receive(18)
    try #require(greeting == Array("NBDMAGICIHAVEOPT".utf8) + [0, 3])
    try send(big(flags))
  }

  func option(_ option: UInt32, _ payload: [UInt8] = []) throws {
    try send(Array("IHAVEOPT".utf8) + big(option) + big(UInt32(payload.count)) + payload)
  }

  /// One reply: the option, the type, and the payload.
  func optionReply() throws -> (option: UInt32, type: UInt32, payload: [UInt8]) {
    let header = try receive(20)
    try #require(header.count == 20 && number(header[0..<8]) == 0x3e889045565a9, "\(header)")
    return (UInt32(number(header[8..<12])), UInt32(number(header[12..<16])), try receive(Int(number(header[16..<20]))))
  }

  /// Replies up to and with the last one: their types.
  func optionReplies() throws -> [UInt32] {
    var types: [UInt32] = []
    repeat { types.append(try optionReply().type) } while types.last == 2 || types.last == 3 || types.last == 4
    return types
  }

  /// The payload of GO or INFO.
  static func goPayload(_ name: String, asksForSizes: Bool = true) -> [UInt8] {
    big(UInt32(name.utf8.count)) + Array(name.utf8) + (asksForSizes ? [0, 1, 0, 3] : [0, 0])
  }

  static func contextPayload(_ name: String, _ queries: [String]) -> [UInt8] {
    var bytes = big(UInt32(name.utf8.count)) + Array(name.utf8) + big(UInt32(queries.count))
    for query in queries { bytes += big(UInt32(query.utf8.count)) + Array(query.utf8) }
    return bytes
  }

  /// All the way to transmission on `name`.
  func enter(
    _ name: String = "disk", structured: Bool = false, contexts: [String] = [], extended: Bool = false,
    asksForSizes: Bool = true
  ) throws {
    try greet()
    if structured {
      try option(8)
      try #require(try optionReplies() == [1])
    }
    if extended {
      try option(11)
      try #require(try optionReplies() == [1])
    }
    if !contexts.isEmpty {
      try option(10, Self.contextPayload(name, contexts))
      try #require(try optionReplies().last == 1)
    }
    try option(7, Self.goPayload(name, asksForSizes: asksForSizes))
    try #require(try optionReplies().last == 1)
  }

  // MARK: Transmission

  func request(
    _ type: UInt16, flags: UInt16 = 0, cookie: UInt64 = 1, offset: UInt64 = 0, length: UInt32 = 0,
    _ payload: [UInt8] = []
  ) throws {
    try send(big(UInt32(0x25609513)) + big(flags) + big(type) + big(cookie) + big(offset) + big(length) + payload)
  }

  func extendedRequest(
    _ type: UInt16, flags: UInt16 = 0, cookie: UInt64 = 1, offset: UInt64 = 0, length: UInt64 = 0,
    _ payload: [UInt8] = []
  ) throws {
    try send(big(UInt32(0x21e41c71)) + big(flags) + big(type) + big(cookie) + big(offset) + big(length) + payload)
  }

  /// The error of a simple reply to `cookie`.
  func simpleReply(cookie: UInt64 = 1) throws -> UInt32 {
    let header = try receive(16)
    try #require(header.count == 16 && number(header[0..<4]) == 0x67446698, "\(header)")
    #expect(number(header[8..<16]) == cookie)
    return UInt32(number(header[4..<8]))
  }

  struct Chunk {
    let isLast: Bool
    let type: UInt16
    let cookie: UInt64
    let payload: [UInt8]
    /// Of an error chunk.
    var error: UInt32 { UInt32(number(payload[0..<4])) }
  }

  func chunk() throws -> Chunk {
    let magic = try receive(4)
    try #require(magic.count == 4)
    let isExtended = number(magic[...]) == 0x6e8a278c
    try #require(isExtended || number(magic[...]) == 0x668e33ef, "\(magic)")
    let rest = try receive(isExtended ? 28 : 16)
    let length = isExtended ? number(rest[20..<28]) : number(rest[12..<16])
    return Chunk(
      isLast: rest[1] & 1 == 1, type: UInt16(number(rest[2..<4])), cookie: number(rest[4..<12]),
      payload: try receive(Int(length)))
  }

  /// Shows that the connection still works: a flush is answered.
  func expectAlive() throws {
    try request(3, cookie: 0xfeed)
    #expect(try simpleReply(cookie: 0xfeed) == 0)
  }
}

/// The bytes of a number, most significant first.
func big<Value: FixedWidthInteger>(_ value: Value) -> [UInt8] { withUnsafeBytes(of: value.bigEndian) { Array($0) } }

func number(_ bytes: ArraySlice<UInt8>) -> UInt64 { bytes.reduce(0) { $0 << 8 | UInt64($1) } }
