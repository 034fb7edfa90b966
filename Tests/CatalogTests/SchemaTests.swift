import Catalog
import Foundation
import Model
import ModelTesting
import Testing

struct SchemaTests {
  private let folder: TemporaryFolder

  init() throws { folder = try TemporaryFolder() }

  private func schema() throws -> [String] {
    let catalog = try SQLiteCatalog(stateFolder: folder.path)
    defer { try? catalog.close() }
    return try catalog.read { view in
      try (view as? CatalogSession)?.texts(
        "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT GLOB 'sqlite_*' ORDER BY tbl_name, type DESC, name"
      )
    } ?? []
  }

  /// The dump is for people who want the whole at a glance. With UPDATE_SCHEMA=1 in the environment it is written.
  @Test func theSchemaDumpIsWhatTheMigrationsMake() throws {
    let place = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
      .appending(path: "../../migrations/schema.sql").standardized
    let dump =
      "-- What the migrations make together; kept so by a test. UPDATE_SCHEMA=1 swift test --filter SchemaTests\n"
      + (try schema()).map { "\n\($0);\n" }.joined()
    if ProcessInfo.processInfo.environment["UPDATE_SCHEMA"] == "1" {
      try Data(dump.utf8).write(to: place)
    }
    #expect(try String(contentsOf: place, encoding: .utf8) == dump)
  }

  @Test func everyTableIsStrict() throws {
    for table in try schema() where table.hasPrefix("CREATE TABLE") {
      #expect(table.hasSuffix("STRICT") || table.hasSuffix("STRICT, WITHOUT ROWID"), "\(table)")
    }
  }

  @Test(arguments: [
    ("images", "format", DiskFormat.allCases.map(\.rawValue)),
    ("images", "state", Image.State.allCases.map(\.rawValue)),
    ("images", "source_kind", ["file", "device", "nbd"]),
    ("images", "attached_cache", CacheMode.allCases.map(\.rawValue)),
    ("images", "attached_by", Attachment.Cause.allCases.map(\.rawValue)),
    ("images", "managed_by", ManagedBy.allCases.map(\.rawValue)),
    ("repositories", "kind", Repository.Kind.allCases.map(\.rawValue)),
    ("repositories", "state", Repository.State.allCases.map(\.rawValue)),
    ("repositories", "managed_by", ManagedBy.allCases.map(\.rawValue)),
    ("backups", "kind", BackupKind.allCases.map(\.rawValue)),
    ("backups", "requested_kind", BackupKind.allCases.map(\.rawValue)),
    ("backups", "state", Backup.State.allCases.map(\.rawValue)),
    ("backups", "compression", Compression.allCases.map(\.rawValue)),
    ("backups", "consistency", Consistency.allCases.map(\.rawValue)),
    ("backups", "verify_level", VerifyLevel.allCases.map(\.rawValue)),
    ("exports", "listen_kind", ["unix", "tcp"]),
    ("exports", "tls", ExportTLS.allCases.map(\.rawValue)),
    ("exports", "state", Export.State.allCases.map(\.rawValue)),
    ("jobs", "kind", JobKind.allCases.map(\.rawValue)),
    ("jobs", "state", JobState.allCases.map(\.rawValue)),
    ("job_log", "level", JobLogEntry.Level.allCases.map(\.rawValue)),
    ("events", "kind", Event.Kind.allCases.map(\.rawValue)),
  ])
  func theStoreTakesJustTheValuesOfTheEnum(_ table: String, _ column: String, _ values: [String]) throws {
    let sql = try #require(
      try schema().first { $0.hasPrefix("CREATE TABLE \(table) ") || $0.hasPrefix("CREATE TABLE \"\(table)\"") })
    let opening = try #require(sql.range(of: "CHECK (\(column) IN ("))
    let closing = try #require(sql.range(of: ")", range: opening.upperBound..<sql.endIndex))
    let listed = sql[opening.upperBound..<closing.lowerBound].split(separator: ",").map { item in
      item.trimmingCharacters(in: CharacterSet(charactersIn: " \n'"))
    }
    #expect(listed.sorted() == values.sorted())
  }
}
