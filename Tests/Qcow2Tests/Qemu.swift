import BlockTesting
import Foundation

/// A folder of its own for one test, gone when the last reference is.
final class TemporaryFolder: Sendable {
  let path: String

  init() throws {
    let url = FileManager.default.temporaryDirectory.appendingPathComponent("qcow2-tests-\(UUID().uuidString)")
    try FileManager.default.createDirectory(at: url, withIntermediateDirectories: true)
    path = url.path
  }

  deinit { try? FileManager.default.removeItem(atPath: path) }

  func file(_ name: String) -> String { path + "/" + name }
}

/// QEMU's own tools, the judges of what an image holds. Every version judges; one, the test's, makes and changes images.
enum Qemu {
  struct Failure: Error, CustomStringConvertible {
    let description: String
  }

  /// Runs a tool and returns its exit status and all that it printed.
  static func run(
    _ tool: String, _ arguments: [String], version: ToolVersion = .current
  ) throws -> (status: Int32, output: String) {
    let process = Process()
    process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
    process.arguments = [version.path(of: tool)] + arguments
    let pipe = Pipe()
    process.standardOutput = pipe
    process.standardError = pipe
    process.standardInput = FileHandle.nullDevice
    try process.run()
    let output = pipe.fileHandleForReading.readDataToEndOfFile()
    process.waitUntilExit()
    return (process.terminationStatus, String(decoding: output, as: UTF8.self))
  }

  @discardableResult
  static func image(_ arguments: String...) throws -> String {
    let (status, output) = try run("qemu-img", arguments)
    guard status == 0 else { throw Failure(description: "qemu-img \(arguments): \(status)\n\(output)") }
    return output
  }

  /// Runs commands of qemu-io on an image.
  static func io(_ path: String, format: String = "qcow2", _ commands: [String], options: [String] = []) throws {
    let (status, output) = try run("qemu-io", ["-f", format] + options + commands.flatMap { ["-c", $0] } + [path])
    guard status == 0, !output.contains("failed") else {
      throw Failure(description: "qemu-io \(commands): \(status)\n\(output)")
    }
  }

  /// What `qemu-img check` finds.
  struct Verdict: Equatable {
    var corruptions: Int
    var leaks: Int
    static let clean = Verdict(corruptions: 0, leaks: 0)
  }

  /// The harshest of the versions' verdicts.
  static func check(_ path: String) throws -> Verdict {
    let verdicts = try ToolVersion.available.map { try check(path, version: $0) }
    return verdicts.reduce(.clean) {
      Verdict(corruptions: max($0.corruptions, $1.corruptions), leaks: max($0.leaks, $1.leaks))
    }
  }

  private static func check(_ path: String, version: ToolVersion) throws -> Verdict {
    let (status, output) = try run("qemu-img", ["check", "-f", "qcow2", "--output=json", path], version: version)
    guard let start = output.firstIndex(of: "{"),
      let found = try JSONSerialization.jsonObject(with: Data(output[start...].utf8)) as? [String: Any]
    else { throw Failure(description: "qemu-img check \(path): \(status)\n\(output)") }
    let errors = found["check-errors"] as? Int ?? 0
    return Verdict(corruptions: errors + (found["corruptions"] as? Int ?? 0), leaks: found["leaks"] as? Int ?? 0)
  }

  /// The bytes that a guest would see, as QEMU reads them: the same in every version.
  static func guestBytes(_ path: String, format: String = "qcow2") throws -> [UInt8] {
    var agreed: [UInt8]?
    for version in ToolVersion.available {
      let bytes = try guestBytes(path, format: format, version: version)
      guard agreed ?? bytes == bytes else {
        throw Failure(description: "the versions of QEMU read \(path) differently")
      }
      agreed = bytes
    }
    return agreed ?? []
  }

  private static func guestBytes(_ path: String, format: String, version: ToolVersion) throws -> [UInt8] {
    let raw = path + ".guest"
    defer { try? FileManager.default.removeItem(atPath: raw) }
    let (status, output) = try run("qemu-img", ["convert", "-f", format, "-O", "raw", path, raw], version: version)
    guard status == 0 else { throw Failure(description: "qemu-img convert \(path): \(status)\n\(output)") }
    return [UInt8](try Data(contentsOf: URL(fileURLWithPath: raw)))
  }
}
