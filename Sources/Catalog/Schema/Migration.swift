import Assets
import Bytes
import Model

/// One step of the schema: a file `migrations/VNNNN_name.sql`, never edited once it is released.
package struct Migration: Hashable, Sendable {
  /// From 1, without a gap.
  package let version: Int
  /// The file's name.
  package let name: String
  package let sql: String

  package var sha256: String { Digest(of: sql).description }

  /// nil if the name isn't VNNNN_name.sql.
  package init?(name: String, sql: String) {
    guard name.hasPrefix("V"), name.hasSuffix(".sql"), let end = name.firstIndex(of: "_"),
      let version = Int(name[name.index(after: name.startIndex)..<end]), version > 0
    else { return nil }
    self.version = version
    self.name = name
    self.sql = sql
  }

  /// Those of this program, in order.
  package static let embedded: [Migration] = EmbeddedFile.inFolder("migrations")
    .compactMap { file in Migration(name: String(file.name.dropFirst("migrations/".count)), sql: file.text) }
    .sorted { $0.version < $1.version }
}
