import Foundation

/// A file of the source tree that is part of the program.
///
/// The content is base64 text in the executable's read-only memory, so that a large file costs the compiler one
/// token and the program nothing until it is wanted.
package struct EmbeddedFile: Sendable {
  /// Its path in the tree, e.g. "openapi.yaml", "migrations/V0001_catalog.sql", "web/index.html".
  package let name: String
  private let base64: StaticString

  init(name: String, base64: StaticString) {
    self.name = name
    self.base64 = base64
  }

  /// The file of that name; nil if there is none.
  package static func named(_ name: String) -> EmbeddedFile? { byName[name] }

  /// Those whose name starts with `folder` and a slash, in order of name.
  package static func inFolder(_ folder: String) -> [EmbeddedFile] {
    all.filter { $0.name.hasPrefix(folder + "/") }.sorted { $0.name < $1.name }
  }

  /// Decodes the content: keep it where it is wanted often.
  package var bytes: [UInt8] {
    base64.withUTF8Buffer { text in
      guard let bytes = Data(base64Encoded: Data(text)) else { preconditionFailure("\(name) wasn't embedded whole") }
      return Array(bytes)
    }
  }

  /// The content as text.
  package var text: String { String(decoding: bytes, as: UTF8.self) }

  private static let byName = Dictionary(all.map { ($0.name, $0) }) { first, _ in first }
}
