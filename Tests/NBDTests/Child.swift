import BlockTesting
import Foundation
import Glibc
import Locks

/// A program that runs beside the tests. Foundation's Process reads past its buffer once a test has opened more than
/// some 1300 descriptors.
final class Child: Sendable {
  private struct State {
    var pid: pid_t = 0
    /// As a shell tells it: the exit code, or 128 and the signal.
    var status: Int32?
  }

  private let state = Lock(State())
  private let ends: AsyncStream<Void>
  private let ended: AsyncStream<Void>.Continuation

  private init() { (ends, ended) = AsyncStream.makeStream() }

  /// Starts `program` with no signal blocked (Swift's own threads block all of them, which it would inherit), from a
  /// thread that outlives it, as nbdkit asks the kernel to be told when that ends.
  /// - Parameters:
  ///   - program: a path, or a name, of which the test's version is started.
  ///   - output: the file that takes what it says; nil: nobody hears it. `errors` alike.
  static func start(
    _ program: String, _ arguments: [String], output: String? = nil, errors: String? = nil
  ) async throws -> Child {
    let child = Child()
    let found = ToolVersion.current.path(of: program)
    let path = found.hasPrefix("/") ? found : "/usr/bin/\(found)"
    try await withCheckedThrowingContinuation { (started: CheckedContinuation<Void, any Error>) in
      Thread {
        let code = child.spawn(path, arguments, output ?? "/dev/null", errors ?? "/dev/null")
        guard code == 0 else {
          return started.resume(throwing: POSIXError(POSIXErrorCode(rawValue: code) ?? .EIO))
        }
        started.resume()
        child.reap()
      }.start()
    }
    return child
  }

  private typealias CloseFrom =
    @convention(c) (UnsafeMutablePointer<posix_spawn_file_actions_t>, Int32) -> Int32

  private func spawn(_ path: String, _ arguments: [String], _ output: String, _ errors: String) -> Int32 {
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
    posix_spawn_file_actions_addopen(&actions, 1, output, O_WRONLY | O_CREAT | O_TRUNC, 0o600)
    posix_spawn_file_actions_addopen(&actions, 2, errors, O_WRONLY | O_CREAT | O_TRUNC, 0o600)
    // A socket that lived on in a child would never be seen to end. Glibc's module leaves this call out.
    if let symbol = dlsym(nil, "posix_spawn_file_actions_addclosefrom_np") {
      _ = unsafeBitCast(symbol, to: CloseFrom.self)(&actions, 3)
    }
    var attributes = posix_spawnattr_t()
    posix_spawnattr_init(&attributes)
    defer { posix_spawnattr_destroy(&attributes) }
    var signals = sigset_t()
    sigemptyset(&signals)
    posix_spawnattr_setsigmask(&attributes, &signals)
    sigfillset(&signals)
    posix_spawnattr_setsigdefault(&attributes, &signals)
    posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF))
    let words = ([path] + arguments).map { strdup($0) }
    defer { for word in words { free(word) } }
    var pid: pid_t = 0
    let code = posix_spawn(&pid, path, &actions, &attributes, words + [nil], environ)
    state.withLock { $0.pid = pid }
    return code
  }

  private func reap() {
    let pid = state.withLock { $0.pid }
    var word: Int32 = 0
    while waitpid(pid, &word, 0) < 0, errno == EINTR {}
    let status = word
    let signal = status & 0x7f
    state.withLock { $0.status = signal == 0 ? status >> 8 & 0xff : 128 + signal }
    ended.finish()
  }

  var isRunning: Bool { state.withLock { $0.status == nil } }
  /// Nil while it runs.
  var status: Int32? { state.withLock { $0.status } }

  /// Waits for its end; a cancelled task ends it.
  func untilEnded() async -> Int32 {
    for await _ in ends {}
    if isRunning { stop(SIGTERM) }
    return status ?? -1
  }

  /// Ends it, and returns when it is gone: until then its files are locked.
  func stop(_ signal: Int32 = SIGKILL) {
    state.withLock { state in if state.status == nil { _ = kill(state.pid, signal) } }
    for _ in 0..<4000 where isRunning { usleep(5000) }
  }
}
