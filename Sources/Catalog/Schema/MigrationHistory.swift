import Foundation
import GRDB

/// The record of the migrations that a database went through, in the database itself.
struct MigrationHistory {
  private let path: String
  private let migrations: [Migration]

  init(path: String, migrations: [Migration]) throws(CatalogOpenError) {
    self.path = path
    self.migrations = migrations
    for (index, migration) in migrations.enumerated() where migration.version != index + 1 {
      throw .faultyMigration(migration: migration.name, cause: "version \(index + 1) was expected at its place")
    }
  }

  /// Checks what was applied, then applies what is missing, each in a transaction of its own together with its
  /// record. `database` must not be in a transaction.
  func bringUpToDate(_ database: Database) throws {
    try createTable(database)
    let applied = try Row.fetchAll(database, sql: "SELECT version, name, sha256 FROM migrations ORDER BY version")
    for (index, row) in applied.enumerated() {
      let name: String = row["name"]
      guard row["version"] == index + 1, index < migrations.count else {
        throw CatalogOpenError.newerSchema(path: path, migration: name)
      }
      guard name == migrations[index].name, row["sha256"] == migrations[index].sha256 else {
        throw CatalogOpenError.editedMigration(path: path, migration: name)
      }
    }
    for migration in migrations.dropFirst(applied.count) { try apply(migration, to: database) }
  }

  private func createTable(_ database: Database) throws {
    guard try !database.tableExists("migrations") else { return }
    guard try Int.fetchOne(database, sql: "SELECT count(*) FROM sqlite_schema") == 0 else {
      throw CatalogOpenError.unreadable(path: path, cause: "it has tables, but not those of a catalog")
    }
    try database.execute(
      sql: """
        CREATE TABLE migrations (
          version    INTEGER NOT NULL PRIMARY KEY,
          name       TEXT    NOT NULL UNIQUE,
          sha256     TEXT    NOT NULL,
          applied_at INTEGER NOT NULL
        ) STRICT
        """)
  }

  /// Foreign keys rest meanwhile, so that a migration can rebuild a table that others refer to; they are checked
  /// before the commit (sqlite.org/lang_altertable.html, "Making Other Kinds Of Table Schema Changes").
  private func apply(_ migration: Migration, to database: Database) throws {
    try database.execute(sql: "PRAGMA foreign_keys = OFF")
    do {
      try database.inTransaction(.immediate) {
        try database.execute(sql: migration.sql)
        guard try Row.fetchOne(database, sql: "PRAGMA foreign_key_check") == nil else {
          throw CatalogOpenError.faultyMigration(migration: migration.name, cause: "it breaks a foreign key")
        }
        try database.execute(
          sql: "INSERT INTO migrations (version, name, sha256, applied_at) VALUES (?, ?, ?, ?)",
          arguments: [migration.version, migration.name, migration.sha256, Date().milliseconds])
        return .commit
      }
    } catch let error as DatabaseError where error.resultCode == .SQLITE_ERROR || error.resultCode == .SQLITE_CONSTRAINT
    {
      throw CatalogOpenError.faultyMigration(migration: migration.name, cause: error.description)
    }
    try database.execute(sql: "PRAGMA foreign_keys = ON")
  }
}
