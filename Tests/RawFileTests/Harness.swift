import BlockCore
import BlockTesting
import EventLoops
import Foundation
import RawFile
import Testing

/// The backends that this machine permits: every suite runs on each.
let backends: [IOBackend] = IOBackend.refusalOfIOUring() == nil ? [.ioUring, .epoll] : [.epoll]

/// An actor on a loop: a home for devices.
actor Home {
  let loop: EventLoop
  nonisolated var unownedExecutor: UnownedSerialExecutor { loop.asUnownedSerialExecutor() }

  init(on loop: EventLoop) { self.loop = loop }

  func run<Result: Sendable>(
    _ body: @Sendable (isolated Home) async throws -> Result
  ) async throws -> Result {
    try await body(self)
  }
}

/// Runs `body` on a loop of its own.
func atHome<Result: Sendable>(
  _ backend: IOBackend, _ body: @Sendable @escaping (isolated Home) async throws -> Result
) async throws -> Result {
  let group = try EventLoopGroup(count: 1, backend: .forced(backend), workerCount: 1)
  let home = Home(on: group.next())
  do {
    let result = try await home.loop.run { try await home.run(body) }
    await group.shutdown()
    return result
  } catch {
    await group.shutdown()
    throw error
  }
}

/// A folder that goes away with its owner.
final class TemporaryFolder: Sendable {
  let path: String

  init() throws {
    path = FileManager.default.temporaryDirectory.appendingPathComponent("cobweb-raw-\(UUID().uuidString)").path
    try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: false)
  }

  deinit { try? FileManager.default.removeItem(atPath: path) }

  func file(_ name: String) -> String { "\(path)/\(name)" }
}

/// A program that runs beside the test. Its output goes to a file, as other programs would inherit a pipe's end.
final class Tool {
  private let process: pid_t
  private let output: String

  init(_ arguments: [String]) throws {
    output = FileManager.default.temporaryDirectory.appendingPathComponent("cobweb-raw-tool-\(UUID().uuidString)").path
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    posix_spawn_file_actions_addopen(&actions, 1, output, O_WRONLY | O_CREAT | O_TRUNC, 0o600)
    posix_spawn_file_actions_adddup2(&actions, 1, 2)
    // Threads of pools and loops block all signals, which a program would inherit.
    var attributes = posix_spawnattr_t()
    posix_spawnattr_init(&attributes)
    defer { posix_spawnattr_destroy(&attributes) }
    var noSignals = sigset_t()
    sigemptyset(&noSignals)
    posix_spawnattr_setsigmask(&attributes, &noSignals)
    posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK))
    var process = pid_t()
    let program = ToolVersion.current.path(of: arguments[0])
    var words = ([program] + arguments.dropFirst()).map { strdup($0) } + [nil]
    defer { for word in words { free(word) } }
    let result = posix_spawnp(&process, program, &actions, &attributes, &words, environ)
    try #require(result == 0, "\(arguments[0]) can't be started: \(String(cString: strerror(result)))")
    self.process = process
  }

  /// Waits for its end.
  func finish() -> (status: Int32, output: String) {
    var status: Int32 = 0
    while waitpid(process, &status, 0) < 0, errno == EINTR {}
    defer { unlink(output) }
    return (status, (try? String(contentsOfFile: output, encoding: .utf8)) ?? "")
  }

  /// Ends it now.
  func stop() {
    kill(process, SIGKILL)
    _ = finish()
  }

  static func run(_ arguments: String...) throws -> (status: Int32, output: String) {
    try Tool(arguments).finish()
  }
}

extension RawFile {
  /// A new file of zeroes that only we use.
  nonisolated(nonsending) static func make(
    _ folder: TemporaryFolder, _ name: String, _ byteCount: UInt64, direct: Bool = false,
    on loop: EventLoop
  ) async throws -> RawFile {
    let options = Options(isReadOnly: false, direct: direct)
    return try await create(.path(folder.file(name)), byteCount: byteCount, options, on: loop)
  }
}

/// Throws unless `body` fails with `kind`.
nonisolated(nonsending) func expectFailure(
  _ kind: BlockError.Kind, _ body: nonisolated(nonsending) () async throws(BlockError) -> Void,
  sourceLocation: SourceLocation = #_sourceLocation
) async {
  do {
    try await body()
    Issue.record("succeeded; “\(kind)” was due", sourceLocation: sourceLocation)
  } catch {
    #expect(error.kind == kind, sourceLocation: sourceLocation)
  }
}
