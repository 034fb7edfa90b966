import EventLoops
import Foundation
import NBD
import Testing

/// Another NBD server that runs beside a test, at a unix socket of its own; it ends with its owner.
final class Peer {
  private let process = Process()
  private let folder: TemporaryFolder

  var socketPath: String { folder.file("peer") }

  func uri(_ name: String = "") throws -> NBDURI { try NBDURI("nbd+unix:///\(name)?socket=\(socketPath)") }

  /// - Parameter arguments: `SOCKET` in them stands for the socket's path.
  init(_ program: String, _ arguments: [String]) async throws {
    folder = try TemporaryFolder()
    let path = folder.file("peer")
    let process = process
    process.executableURL = URL(fileURLWithPath: "/usr/bin/\(program)")
    process.arguments = arguments.map { $0.replacingOccurrences(of: "SOCKET", with: path) }
    process.standardInput = FileHandle.nullDevice
    _ = FileManager.default.createFile(atPath: folder.file("errors"), contents: nil)
    process.standardError = try FileHandle(forWritingTo: URL(fileURLWithPath: folder.file("errors")))
    process.standardOutput = FileHandle.nullDevice
    try await start(process)
    try await eventually(within: 15, "\(program) listens") {
      !process.isRunning
        || (FileManager.default.fileExists(atPath: path) && (try? Socket.isAnswered(unixPath: path)) == true)
    }
    if !process.isRunning {
      let errors = try String(contentsOfFile: folder.file("errors"), encoding: .utf8)
      Issue.record("\(program) ended with \(process.terminationStatus): \(errors)")
    }
  }

  deinit { stop() }

  /// Ends it without ado, and returns when it is gone: until then its files are locked.
  func stop() {
    guard process.isRunning else { return }
    kill(process.processIdentifier, SIGKILL)
    for _ in 0..<2000 where process.isRunning { usleep(5000) }
  }
}

/// Starts the process with no signal blocked: Swift's own threads block all of them, which it would inherit. The thread
/// that starts it outlives it, as nbdkit asks the kernel to be told when that ends.
func start(_ process: Process) async throws {
  try await withCheckedThrowingContinuation { (continuation: CheckedContinuation<Void, any Error>) in
    Thread {
      var none = sigset_t()
      sigemptyset(&none)
      pthread_sigmask(SIG_SETMASK, &none, nil)
      continuation.resume(with: Result { try process.run() })
      while process.isRunning { usleep(10_000) }
    }.start()
  }
}
