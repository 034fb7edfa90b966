import Foundation

/// A program that isn't ours, asked for its opinion.
enum Program {
  struct Failure: Error {
    let command: String
    let status: Int32
    let output: String
  }

  /// What it prints. Its environment is empty but for `environment`.
  /// - Throws: if it ends with another status than 0, unless it may.
  static func run(_ path: String, _ arguments: [String], environment: [String: String] = [:], mayFail: Bool = false)
    throws -> String
  {
    let process = Process()
    process.executableURL = URL(fileURLWithPath: path)
    process.arguments = arguments
    process.environment = environment.merging(["PATH": "/usr/bin:/bin", "LC_ALL": "C"]) { own, _ in own }
    let pipe = Pipe()
    process.standardOutput = pipe
    process.standardError = pipe
    process.standardInput = FileHandle.nullDevice
    try process.run()
    let output = String(decoding: pipe.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
    process.waitUntilExit()
    guard mayFail || process.terminationStatus == 0 else {
      throw Failure(command: path, status: process.terminationStatus, output: String(output.suffix(2000)))
    }
    return output
  }
}
