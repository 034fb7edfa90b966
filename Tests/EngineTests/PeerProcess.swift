import BlockTesting
import EventLoops
import Foundation
import Glibc
import Testing

/// Another program that runs beside a test, e.g. an NBD server; it ends with its owner.
final class PeerProcess {
  private let process = Process()
  private let input = Pipe()

  /// Starts it with a thread that outlives it, as nbdkit asks the kernel to be told when that ends.
  init(_ program: String, _ arguments: [String]) async throws {
    let process = process
    process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
    process.arguments = [ToolVersion.current.path(of: program)] + arguments
    process.standardInput = input
    process.standardOutput = FileHandle.nullDevice
    process.standardError = FileHandle.nullDevice
    try await withCheckedThrowingContinuation { (continuation: CheckedContinuation<Void, any Error>) in
      Thread {
        Tool.allowSignals()
        continuation.resume(with: Result { try process.run() })
        while process.isRunning { usleep(10_000) }
      }.start()
    }
  }

  /// An NBD server that listens at a unix socket when this returns.
  static func server(_ program: String, _ arguments: [String], at socket: String) async throws -> PeerProcess {
    // One that was killed leaves its socket behind.
    unlink(socket)
    let peer = try await PeerProcess(program, arguments)
    try await eventually("\(program) listens") {
      guard peer.process.isRunning else { throw Tool.Failure(description: "\(program) \(arguments) ended") }
      return FileManager.default.fileExists(atPath: socket) && (try? Socket.isAnswered(unixPath: socket)) == true
    }
    return peer
  }

  deinit { stop() }

  func send(_ text: String) throws { try input.fileHandleForWriting.write(contentsOf: Data(text.utf8)) }

  /// Ends it without ado, and returns when it is gone: until then its files are locked.
  func stop() {
    guard process.isRunning else { return }
    kill(process.processIdentifier, SIGKILL)
    for _ in 0..<2000 where process.isRunning { usleep(5000) }
  }
}

/// Waits until `condition` holds, at most some seconds.
func eventually(
  within seconds: Double = 15, _ what: Comment, sourceLocation: SourceLocation = #_sourceLocation,
  _ condition: () async throws -> Bool
) async throws {
  let deadline = Date().addingTimeInterval(seconds)
  while Date() < deadline {
    if try await condition() { return }
    try await Task.sleep(for: .milliseconds(10))
  }
  Issue.record(what, sourceLocation: sourceLocation)
}
