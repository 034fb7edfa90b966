import Foundation

/// A program that is run as a person would run it.
enum Tool {
  struct Failure: Error, CustomStringConvertible {
    let description: String
  }

  /// Runs it and returns what it prints.
  /// - Throws: unless it exits with one of `expected`.
  @discardableResult
  static func run(_ name: String, _ arguments: String..., expecting expected: Set<Int32> = [0]) throws -> String {
    let process = Process()
    process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
    process.arguments = [name] + arguments
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
}
