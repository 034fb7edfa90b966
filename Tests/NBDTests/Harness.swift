import BlockCore
import BlockFilters
import BlockTesting
import EventLoops
import Foundation
import Logging
import NBD
import Testing

/// A folder that goes away with its owner.
final class TemporaryFolder: Sendable {
  let path: String

  init() throws {
    var template = Array("/tmp/cobweb-nbd-XXXXXX".utf8CString)
    let isMade = template.withUnsafeMutableBufferPointer { mkdtemp($0.baseAddress!) != nil }
    try #require(isMade)
    path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }

  deinit { try? FileManager.default.removeItem(atPath: path) }

  func file(_ name: String) -> String { "\(path)/\(name)" }
}

/// What the loops of all suites run on: `TEST_IO_BACKEND=epoll` has them do without io_uring.
let testBackend: IOBackend.Choice =
  ProcessInfo.processInfo.environment["TEST_IO_BACKEND"] == "epoll" ? .forced(.epoll) : .automatic

/// Says nothing of what tests do wrong on purpose.
let quietLogger = Logger(label: "nbd") { _ in SwiftLogNoOpLogHandler() }

/// A server on loops of its own, with a unix socket in a folder of its own.
struct World: Sendable {
  let loops: EventLoopGroup
  let server: NBDServer
  let listener: NBDListener
  let folder: TemporaryFolder

  var socketPath: String { folder.file("nbd") }

  func uri(_ name: String = "") -> String { "nbd+unix:///\(name)?socket=\(socketPath)" }

  /// Publishes `device`, by default as the default export too.
  @discardableResult
  func publish(
    _ device: any BlockDevice, as name: String = "disk", isDefault: Bool = true,
    options: NBDExport.Options = NBDExport.Options()
  ) throws -> NBDExport {
    let export = NBDExport(name: name, device: AlignedAccess.over(device), loop: loops.next(), options: options)
    try listener.publish(export, isDefault: isDefault)
    return export
  }
}

extension NBDExport {
  /// Scratch memory that is out for requests that aren't aligned.
  var lentByteCount: Int { (device as? AlignedAccess)?.lentByteCount ?? 0 }
}

extension NBDServerOptions {
  /// Time for a handshake on a busy machine, or under a sanitizer.
  static let patient: NBDServerOptions = {
    var options = NBDServerOptions()
    options.handshakeTimeout = .seconds(120)
    return options
  }()
}

/// Runs `body` with a server and takes it down; afterwards no connection and no memory of one may be left.
func withWorld(
  _ options: NBDServerOptions = NBDServerOptions.patient, security: ListenerSecurity = .plain,
  address: SocketAddress? = nil, loopCount: Int = 2, backend: IOBackend.Choice = testBackend,
  logger: Logger = quietLogger, _ body: (World) async throws -> Void
) async throws {
  let folder = try TemporaryFolder()
  let loops = try EventLoopGroup(count: loopCount, backend: backend, workerCount: 1)
  let server = NBDServer(loops: loops, options: options, logger: logger)
  do {
    let listener = try await server.listen(
      at: address ?? .unix(path: folder.file("nbd")), security: security)
    try await body(World(loops: loops, server: server, listener: listener, folder: folder))
  } catch {
    await server.shutdown()
    await loops.shutdown()
    throw error
  }
  await server.shutdown()
  #expect(server.connectionCount == 0)
  #expect(server.lentByteCount == 0)
  await loops.shutdown()
}

/// Waits until `condition` holds, at most so long: a busy machine or a sanitizer may need it.
func eventually(
  within seconds: Double = 20, _ what: Comment, sourceLocation: SourceLocation = #_sourceLocation,
  _ condition: () async -> Bool
) async throws {
  let deadline = Date().addingTimeInterval(seconds)
  while Date() < deadline {
    if await condition() { return }
    try await Task.sleep(for: .milliseconds(10))
  }
  Issue.record(what, sourceLocation: sourceLocation)
}

/// Bytes that tell where they stand, with holes of zeroes.
func sampleImage(_ byteCount: Int, seed: UInt64 = 7) -> SparseImage {
  var random = SeededRandom(seed: seed)
  var image = SparseImage(byteCount: UInt64(byteCount))
  var offset = 0
  while offset < byteCount {
    let count = min(byteCount - offset, 4096 * (1 + random.below(40)))
    if random.oneIn(2) { image.write(random.bytes(count).span.bytes, at: UInt64(offset)) }
    offset += count
  }
  return image
}

/// A program that exists already: how it ended and what it said.
struct Tool: Sendable {
  let status: Int32
  let output: String
  let errors: String

  /// Runs `program`, of the test's version, to its end, at most for `seconds`.
  static func run(_ program: String, _ arguments: [String], seconds: Int = 40) async throws -> Tool {
    let folder = try TemporaryFolder()
    let child = try await Child.start(
      "timeout", ["--kill-after=5", "\(seconds)", ToolVersion.current.path(of: program)] + arguments,
      output: folder.file("out"),
      errors: folder.file("err"))
    let status = await child.untilEnded()
    return Tool(
      status: status, output: try String(contentsOfFile: folder.file("out"), encoding: .utf8),
      errors: try String(contentsOfFile: folder.file("err"), encoding: .utf8))
  }

  /// The same; it must succeed.
  @discardableResult
  static func check(
    _ program: String, _ arguments: [String], seconds: Int = 40, sourceLocation: SourceLocation = #_sourceLocation
  ) async throws -> String {
    let tool = try await run(program, arguments, seconds: seconds)
    #expect(
      tool.status == 0, "\(program) \(arguments.joined(separator: " ")): \(tool.errors)\(tool.output)",
      sourceLocation: sourceLocation)
    return tool.output
  }

  /// What the program says in JSON; it must succeed.
  static func json(
    _ program: String, _ arguments: [String], sourceLocation: SourceLocation = #_sourceLocation
  ) async throws -> Any {
    let output = try await check(program, arguments, sourceLocation: sourceLocation)
    return try JSONSerialization.jsonObject(with: Data(output.utf8))
  }
}
