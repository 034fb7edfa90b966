import BlockTesting
import Foundation
import Glibc

/// A program that is run as a person would run it: of QEMU and libnbd the test's version.
enum Tool {
  struct Failure: Error, CustomStringConvertible {
    let description: String
  }

  /// Runs it and returns what it prints.
  /// - Throws: unless it exits with one of `expected`.
  @discardableResult
  static func run(_ name: String, _ arguments: String..., expecting expected: Set<Int32> = [0]) throws -> String {
    try run(name, arguments, expecting: expected)
  }

  @discardableResult
  static func run(
    _ name: String, _ arguments: [String], expecting expected: Set<Int32> = [0], version: ToolVersion = .current
  ) throws -> String {
    let process = Process()
    process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
    process.arguments = [version.path(of: name)] + arguments
    let output = Pipe()
    process.standardOutput = output
    process.standardError = output
    process.standardInput = FileHandle.nullDevice
    try process.run()
    let text = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
    process.waitUntilExit()
    guard expected.contains(process.terminationStatus) else {
      throw Failure(
        description: "\(name) \(arguments.joined(separator: " ")): exit \(process.terminationStatus): \(text)")
    }
    return text
  }

  /// The same for what talks to this process meanwhile: nobody's thread is held up.
  @discardableResult
  static func runAside(_ name: String, _ arguments: [String], expecting expected: Set<Int32> = [0]) async throws
    -> String
  {
    let version = ToolVersion.current
    return try await withCheckedThrowingContinuation { (continuation: CheckedContinuation<String, any Error>) in
      Thread {
        allowSignals()
        continuation.resume(with: Result { try run(name, arguments, expecting: expected, version: version) })
      }.start()
    }
  }

  /// Has every version of qemu-img check or compare images, each of which must succeed.
  static func judge(_ arguments: String...) throws {
    for version in ToolVersion.available { try run("qemu-img", arguments, version: version) }
  }

  /// Swift's own threads block all signals, which programs that are started on them inherit.
  static func allowSignals() {
    var none = sigset_t()
    sigemptyset(&none)
    pthread_sigmask(SIG_SETMASK, &none, nil)
  }
}
