import GRDB
import Model

extension DomainError {
  /// What SQLite's failure means to a person. `path` is the database's.
  package init(_ error: DatabaseError, at path: String) {
    switch error.resultCode {
    case .SQLITE_FULL:
      self.init(
        .storageFull, "the disk that holds the catalog \(path) is full", remedy: "make room there; nothing was stored")
    case .SQLITE_BUSY, .SQLITE_LOCKED:
      self.init(
        .notReady, "another program holds the catalog \(path) locked",
        remedy: "nothing was stored: try again, and end that program if it goes on")
    case .SQLITE_CORRUPT, .SQLITE_NOTADB:
      self.init(
        .ioError, "the catalog \(path) is damaged: \(error.description)",
        remedy: "stop, move it away, start again, and rescan each repository: the backups themselves aren't touched")
    case .SQLITE_IOERR, .SQLITE_CANTOPEN, .SQLITE_READONLY, .SQLITE_PERM, .SQLITE_NOLFS:
      self.init(
        .ioError, "the catalog \(path) can't be read or written: \(error.description)",
        remedy: "check the disk and the permissions of the state folder")
    default:
      self.init(.internalError, "the catalog refused a statement: \(error.description)")
    }
  }

  /// The change's turn didn't come in time.
  static func catalogBusy(_ path: String) -> DomainError {
    DomainError(
      .notReady, "the catalog \(path) is busy: other changes wait, for a program that holds it locked or a slow disk",
      remedy: "nothing was stored: try again a little later")
  }

  /// A stored row that can't be what this program wrote.
  static func damagedRow(_ table: String, _ key: String, _ why: String) -> DomainError {
    DomainError(
      .ioError, "the catalog's row \(key) of \(table) can't be read: \(why)",
      remedy: "restore the catalog from a copy, or start with an empty one and rescan each repository")
  }
}
