import Buffers
import Descriptors
import EventLoops
import Glibc
import Testing

/// The backends that this machine permits: every I/O suite runs on each.
let backends: [IOBackend] = IOBackend.refusalOfIOUring() == nil ? [.ioUring, .epoll] : [.epoll]

/// How much heavier than usual the seeded stories are (TEST_EFFORT).
let effort = getenv("TEST_EFFORT").flatMap { Int(String(cString: $0)) } ?? 1

/// Runs `body` with a group of loops and shuts it down.
func withLoops<Result: Sendable>(
  _ backend: IOBackend, count: Int = 1, _ body: (EventLoopGroup) async throws -> Result
) async throws -> Result {
  let group = try EventLoopGroup(count: count, backend: .forced(backend), workerCount: 2)
  do {
    let result = try await body(group)
    await group.shutdown()
    return result
  } catch {
    await group.shutdown()
    throw error
  }
}

/// Runs `body` on a loop of its own.
func onLoop<Result: Sendable>(
  _ backend: IOBackend, _ body: @Sendable @escaping (EventLoop) async throws -> Result
) async throws -> Result {
  try await withLoops(backend) { group in
    let loop = group.next()
    return try await loop.run { try await body(loop) }
  }
}

/// A folder that goes away with its owner.
final class TemporaryFolder: Sendable {
  let path: String

  init() throws {
    var template = Array("/tmp/cobweb-loops-test-XXXXXX".utf8CString)
    let isMade = template.withUnsafeMutableBufferPointer { mkdtemp($0.baseAddress!) != nil }
    try #require(isMade)
    path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }

  deinit { remove(path) }

  private func remove(_ path: String) {
    if let folder = opendir(path) {
      while let entry = readdir(folder) {
        let name = withUnsafeBytes(of: &entry.pointee.d_name) { bytes in
          String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
        }
        if name != ".", name != ".." { remove("\(path)/\(name)") }
      }
      closedir(folder)
      rmdir(path)
    } else {
      unlink(path)
    }
  }

  func file(_ name: String) -> String { "\(path)/\(name)" }

  /// Makes a file with these bytes.
  func makeFile(_ name: String, _ bytes: [UInt8] = []) throws {
    let descriptor = Glibc.open(file(name), O_RDWR | O_CREAT | O_TRUNC, 0o600)
    try #require(descriptor >= 0)
    defer { _ = Glibc.close(descriptor) }
    try #require(write(descriptor, bytes, bytes.count) == bytes.count)
  }

  func open(file name: String) throws -> FileDescriptor {
    try FileDescriptor.open(path: file(name), .init(access: .readWrite))
  }
}

/// Bytes that tell where they stand.
func pattern(_ count: Int, seed: Int = 0) -> [UInt8] {
  var state = UInt64(truncatingIfNeeded: seed &+ 1) &* 0x9E37_79B9_7F4A_7C15
  // By words: a debug build is slow at single bytes.
  let words = (0..<(count + 7) / 8).map { _ in
    state ^= state << 13
    state ^= state >> 7
    state ^= state << 17
    return state
  }
  return words.withUnsafeBytes { Array($0.prefix(count)) }
}

extension EventLoop {
  /// Reads up to `count` bytes at `offset` as an array.
  nonisolated(nonsending) func readBytes(_ file: FileDescriptor, _ count: Int, at offset: UInt64) async throws
    -> [UInt8]
  {
    var bytes = [UInt8](repeating: 0xEE, count: count)
    var span = bytes.mutableSpan
    var raw = span.mutableBytes
    let done = try await read(file, into: &raw, at: offset)
    return Array(bytes.prefix(done))
  }
}

extension Socket {
  nonisolated(nonsending) func receiveBytes(_ count: Int) async throws -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: count)
    var span = bytes.mutableSpan
    var raw = span.mutableBytes
    var done = 0
    while done < count {
      var rest = raw.part(done..<count)
      let received = try await receive(into: &rest)
      if received == 0 { break }
      done += received
    }
    return Array(bytes.prefix(done))
  }

  nonisolated(nonsending) func sendBytes(_ bytes: [UInt8]) async throws {
    try await sendAll(bytes.span.bytes)
  }
}
