import Foundation
import Model

extension JobResult {
  /// As the catalog stores it.
  package var stored: JSONValue {
    (try? JSONDecoder().decode(JSONValue.self, from: JSONEncoder().encode(self))) ?? .null
  }

  /// One of the members that it is stored with.
  package subscript(member: String) -> JSONValue? { stored[member] }
}
