import Foundation
import Glibc

/// A folder of the test's own, removed with everything in it when its owner goes.
package final class TemporaryFolder: Sendable {
  /// Absolute, with every link resolved.
  package let path: String

  package init() throws {
    let base = FileManager.default.temporaryDirectory.appending(path: "cobweb-test-\(UUID().uuidString)")
    try FileManager.default.createDirectory(at: base, withIntermediateDirectories: false)
    guard let resolved = realpath(base.path, nil) else { throw ExpectationFailure("\(base.path) vanished") }
    defer { free(resolved) }
    path = String(cString: resolved)
  }

  deinit { try? FileManager.default.removeItem(atPath: path) }

  package func path(_ name: String) -> String { "\(path)/\(name)" }

  /// Makes a folder beneath it, with those above.
  @discardableResult
  package func makeFolder(_ name: String) throws -> String {
    try FileManager.default.createDirectory(atPath: path(name), withIntermediateDirectories: true)
    return path(name)
  }

  @discardableResult
  package func write(_ text: String, to name: String) throws -> String {
    try Data(text.utf8).write(to: URL(fileURLWithPath: path(name)))
    return path(name)
  }
}
