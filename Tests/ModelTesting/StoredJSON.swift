import Foundation
import Model

/// What the catalog stores as JSON.
package protocol StoredAsJSON: Codable {}

extension StoredAsJSON {
  package var stored: JSONValue {
    (try? JSONDecoder().decode(JSONValue.self, from: JSONEncoder().encode(self))) ?? .null
  }

  /// One of the members that it is stored with.
  package subscript(member: String) -> JSONValue? { stored[member] }
}

extension JobResult: StoredAsJSON {}
extension EventPayload: StoredAsJSON {}
