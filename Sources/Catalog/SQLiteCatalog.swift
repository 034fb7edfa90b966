import Descriptors
import Foundation
import GRDB
import Glibc
import Model

/// The catalog as a SQLite database in the state folder.
///
/// Write-ahead log: one writer at a time, readers beside it, each with its own unchanging view. A write that has
/// returned is on the disk (`synchronous` is FULL: what is stored here is told to clients as done).
/// One process at a time: a second one on the same folder is refused.
package final class SQLiteCatalog: BackupCatalog {
  private let path: String
  private let pool: DatabasePool
  private let claim: StateFolderLock

  package static let fileName = "catalog.sqlite"
  /// Readers at one time; more wait for their turn.
  package static let maximumReaderCount = 8

  /// Opens the catalog in `stateFolder`, which is made (0700) if it isn't there, and brings its schema up to date.
  /// `busyTimeout` is how long a statement waits for a lock that another program (sqlite3, a backup tool) holds.
  package init(
    stateFolder: String, busyTimeout: TimeInterval = 5, migrations: [Migration] = Migration.embedded
  ) throws(CatalogOpenError) {
    let history = try MigrationHistory(path: stateFolder + "/" + Self.fileName, migrations: migrations)
    try Self.makeFolder(stateFolder)
    path = stateFolder + "/" + Self.fileName
    claim = try StateFolderLock(folder: stateFolder)
    try Self.makeFile(path, in: stateFolder)
    do {
      pool = try DatabasePool(path: path, configuration: Self.configuration(busyTimeout: busyTimeout))
      try pool.writeWithoutTransaction { database in
        // GRDB chooses NORMAL for the write-ahead log, which may lose the last transactions with the power.
        try database.execute(sql: "PRAGMA synchronous = FULL")
        try history.bringUpToDate(database)
      }
    } catch let error as CatalogOpenError {
      throw error
    } catch let error as DatabaseError where Self.storageFailures.contains(error.resultCode) {
      throw .unusable(path: path, cause: error.description)
    } catch {
      throw .unreadable(path: path, cause: "\(error)")
    }
  }

  package func read<Result>(_ body: (any CatalogReading) throws -> Result) throws -> Result {
    do {
      return try pool.read { try body(CatalogSession($0)) }
    } catch let error as DatabaseError {
      throw DomainError(error, at: path)
    }
  }

  /// The transaction is done also if the task is cancelled meanwhile: the end of a cancelled job must be stored.
  @discardableResult
  package func write<Result: Sendable>(
    _ body: @Sendable @escaping (any CatalogWriting) throws -> Result
  ) async throws -> Result {
    do {
      return try await withCheckedThrowingContinuation { continuation in
        pool.asyncWrite { database in
          try body(CatalogSession(database))
        } completion: { _, result in
          continuation.resume(with: result)
        }
      }
    } catch let error as DatabaseError {
      throw DomainError(error, at: path)
    }
  }

  package func close() throws {
    defer { claim.release() }
    do { try pool.close() } catch let error as DatabaseError { throw DomainError(error, at: path) }
  }

  /// Failures that say nothing against the file's content.
  private static let storageFailures: [ResultCode] = [
    .SQLITE_FULL, .SQLITE_IOERR, .SQLITE_CANTOPEN, .SQLITE_READONLY, .SQLITE_PERM, .SQLITE_BUSY, .SQLITE_LOCKED,
  ]

  private static func configuration(busyTimeout: TimeInterval) -> GRDB.Configuration {
    var configuration = GRDB.Configuration()
    configuration.busyMode = .timeout(busyTimeout)
    configuration.foreignKeysEnabled = true
    configuration.maximumReaderCount = maximumReaderCount
    configuration.label = "catalog"
    return configuration
  }

  private static func makeFolder(_ path: String) throws(CatalogOpenError) {
    do {
      try FileManager.default.createDirectory(
        atPath: path, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o700])
    } catch {
      throw .unusable(path: path, cause: error.localizedDescription)
    }
  }

  /// Makes the file for its owner alone before SQLite would make it for everybody (its log takes over the mode), and
  /// makes its name durable.
  private static func makeFile(_ path: String, in folder: String) throws(CatalogOpenError) {
    guard FileDescriptor(result: open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o600)) != nil else {
      throw .unusable(path: path, cause: String(cString: strerror(errno)))
    }
    guard let directory = FileDescriptor(result: open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC)),
      fsync(directory.rawValue) == 0
    else { throw .unusable(path: folder, cause: String(cString: strerror(errno))) }
  }
}
