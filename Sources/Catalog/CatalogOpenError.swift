/// Why a catalog can't be opened. Nothing was changed.
package enum CatalogOpenError: Error, Hashable, Sendable {
  /// Another process works on the state folder.
  case inUse(folder: String, processID: Int?)
  /// A file can't be made or opened.
  case unusable(path: String, cause: String)
  /// The file isn't a catalog, or is damaged.
  case unreadable(path: String, cause: String)
  /// It was written by a newer Cobweb: it has a migration that this one doesn't know.
  case newerSchema(path: String, migration: String)
  /// A migration that was applied isn't the one of that name in this program.
  case editedMigration(path: String, migration: String)
  /// The migrations in this program don't count up from 1, or one fails.
  case faultyMigration(migration: String, cause: String)
}

extension CatalogOpenError: CustomStringConvertible {
  package var description: String {
    switch self {
    case .inUse(let folder, let processID):
      "the state folder \(folder) is in use by another cobweb\(processID.map { " (process \($0))" } ?? ""): "
        + "stop that one, or give this one a state folder of its own"
    case .unusable(let path, let cause):
      "\(path) can't be used: \(cause). Check that the state folder exists, belongs to this user, and has room"
    case .unreadable(let path, let cause):
      "\(path) is no catalog, or is damaged: \(cause). Move it away and start again: "
        + "a rescan of each repository brings the backups back"
    case .newerSchema(let path, let migration):
      "\(path) was written by a newer cobweb (it has \(migration)): start that one, or a newer one"
    case .editedMigration(let path, let migration):
      "\(path) was made with another \(migration) than this program's: start the cobweb that made it"
    case .faultyMigration(let migration, let cause):
      "the migration \(migration) of this program is at fault: \(cause)"
    }
  }
}
