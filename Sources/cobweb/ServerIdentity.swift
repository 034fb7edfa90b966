import Foundation
import Model

/// This server's id, the same after each start: its work files and leases in repositories carry it.
enum ServerIdentity {
  private static let fileName = "server-id"

  /// Reads it from the state folder, which this process must hold; makes one at the first start.
  static func load(from stateFolder: String) throws -> ULID {
    let path = stateFolder + "/" + fileName
    if let text = try? String(contentsOfFile: path, encoding: .utf8) {
      guard let id = ULID(text.trimmingCharacters(in: .whitespacesAndNewlines)) else {
        throw DomainError(
          .internalError, "\(path) doesn't hold an id", remedy: "remove the file; a new id is made at the next start")
      }
      return id
    }
    let id = ULID()
    try Data("\(id)\n".utf8).write(to: URL(fileURLWithPath: path), options: .atomic)
    return id
  }
}
