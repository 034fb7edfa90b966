import Bytes
import EventLoops
import Foundation
import NBD
import Testing

/// Another NBD server that runs beside a test, at a unix socket of its own; it ends with its owner.
final class Peer: Sendable {
  private let child: Child
  private let folder: TemporaryFolder

  var socketPath: String { folder.file("peer") }

  func uri(_ name: String = "") throws -> NBDURI { try NBDURI("nbd+unix:///\(name)?socket=\(socketPath)") }

  /// - Parameter arguments: `SOCKET` in them stands for the socket's path.
  init(_ program: String, _ arguments: [String]) async throws {
    let folder = try TemporaryFolder()
    let path = folder.file("peer")
    let child = try await Child.start(
      program, arguments.map { $0.replacingOccurrences(of: "SOCKET", with: path) }, errors: folder.file("errors"))
    self.folder = folder
    self.child = child
    try await eventually(within: 15, "\(program) listens") {
      !child.isRunning
        || (FileManager.default.fileExists(atPath: path) && (try? Socket.isAnswered(unixPath: path)) == true)
    }
    if let status = child.status {
      let errors = try String(contentsOfFile: folder.file("errors"), encoding: .utf8)
      Issue.record("\(program) ended with \(status): \(errors)")
    }
  }

  deinit { stop() }

  /// Ends it without ado, and returns when it is gone.
  func stop() { child.stop() }
}
