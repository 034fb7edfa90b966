import Assets
import Catalog
import Foundation
import GRDB
import Model
import ModelTesting
import Testing

struct MigrationTests {
  private let folder: TemporaryFolder

  init() throws { folder = try TemporaryFolder() }

  private func migration(_ name: String, _ sql: String) throws -> Migration {
    try #require(Migration(name: name, sql: sql))
  }

  private func refusal(_ migrations: [Migration]) throws -> CatalogOpenError {
    let folder = folder.path
    return try #require(
      #expect(throws: CatalogOpenError.self) { try SQLiteCatalog(stateFolder: folder, migrations: migrations) })
  }

  private func tables() throws -> [String] {
    try DatabaseQueue(path: folder.path(SQLiteCatalog.fileName)).read { database in
      try String.fetchAll(
        database, sql: "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT GLOB 'sqlite_*' ORDER BY name")
    }
  }

  @Test func theProgramCarriesTheFilesOfTheTree() throws {
    let tree = URL(fileURLWithPath: #filePath).deletingLastPathComponent().appending(path: "../../migrations")
      .standardized
    let names = try FileManager.default.contentsOfDirectory(atPath: tree.path).filter { $0 != "schema.sql" }.sorted()
    #expect(Migration.embedded.map(\.name) == names)
    for migration in Migration.embedded {
      #expect(try String(contentsOf: tree.appending(path: migration.name), encoding: .utf8) == migration.sql)
    }
    #expect(EmbeddedFile.named("openapi.yaml")?.bytes.isEmpty == false)
    #expect(EmbeddedFile.named("openapi.yml") == nil)
  }

  @Test func laterMigrationsAreAddedToWhatIsThere() async throws {
    let first = try migration("V0001_a.sql", "CREATE TABLE a (id INTEGER PRIMARY KEY) STRICT;")
    let second = try migration("V0002_b.sql", "CREATE TABLE b (id INTEGER PRIMARY KEY); CREATE INDEX i ON b (id);")
    try SQLiteCatalog(stateFolder: folder.path, migrations: [first]).close()
    #expect(try tables() == ["a", "migrations"])
    for _ in 0..<2 { try SQLiteCatalog(stateFolder: folder.path, migrations: [first, second]).close() }
    #expect(try tables() == ["a", "b", "migrations"])
  }

  @Test func anEditedMigrationIsRefused() throws {
    try SQLiteCatalog(stateFolder: folder.path, migrations: [migration("V0001_a.sql", "CREATE TABLE a (id);")]).close()
    let edited = try migration("V0001_a.sql", "CREATE TABLE a (id); ")
    let path = folder.path(SQLiteCatalog.fileName)
    #expect(try refusal([edited]) == .editedMigration(path: path, migration: "V0001_a.sql"))
    let renamed = try migration("V0001_b.sql", "CREATE TABLE a (id);")
    #expect(try refusal([renamed]) == .editedMigration(path: path, migration: "V0001_a.sql"))
  }

  @Test func aNewerCatalogIsRefused() throws {
    let first = try migration("V0001_a.sql", "CREATE TABLE a (id);")
    let second = try migration("V0002_b.sql", "CREATE TABLE b (id);")
    try SQLiteCatalog(stateFolder: folder.path, migrations: [first, second]).close()
    let path = folder.path(SQLiteCatalog.fileName)
    #expect(try refusal([first]) == .newerSchema(path: path, migration: "V0002_b.sql"))
    #expect(try tables() == ["a", "b", "migrations"])
  }

  @Test func aMigrationThatFailsLeavesTheOneBefore() throws {
    let first = try migration("V0001_a.sql", "CREATE TABLE a (id);")
    let broken = try migration("V0002_b.sql", "CREATE TABLE b (id); CREATE TABEL c (id);")
    guard case .faultyMigration("V0002_b.sql", _) = try refusal([first, broken]) else {
      Issue.record("another refusal than of V0002_b.sql")
      return
    }
    #expect(try tables() == ["a", "migrations"])
    try SQLiteCatalog(stateFolder: folder.path, migrations: [first]).close()
  }

  @Test func aMigrationThatBreaksAForeignKeyIsRolledBack() throws {
    let first = try migration(
      "V0001_a.sql",
      "CREATE TABLE a (id INTEGER PRIMARY KEY); CREATE TABLE b (a REFERENCES a (id));"
        + "INSERT INTO a VALUES (1); INSERT INTO b VALUES (1);")
    let breaking = try migration("V0002_b.sql", "DELETE FROM a;")
    guard case .faultyMigration("V0002_b.sql", _) = try refusal([first, breaking]) else {
      Issue.record("another refusal than of V0002_b.sql")
      return
    }
    let left = try DatabaseQueue(path: folder.path(SQLiteCatalog.fileName)).read { database in
      try Int.fetchOne(database, sql: "SELECT count(*) FROM a")
    }
    #expect(left == 1)
  }

  @Test func versionsCountUpFromOne() throws {
    let first = try migration("V0001_a.sql", "")
    let third = try migration("V0003_c.sql", "")
    for faulty in [[third], [first, third], [first, first]] {
      guard case .faultyMigration = try refusal(faulty) else {
        Issue.record("\(faulty.map(\.name)) weren't refused as faulty")
        return
      }
    }
    for name in ["V_a.sql", "0001_a.sql", "V0001.sql", "V0000_a.sql", "V0001_a.txt", "Vx_a.sql"] {
      #expect(Migration(name: name, sql: "") == nil, "\(name)")
    }
  }

  @Test func hashIsSHA256() throws {
    let empty = try migration("V0001_a.sql", "")
    #expect(empty.sha256 == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
  }
}
