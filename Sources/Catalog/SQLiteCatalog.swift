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
  private let calls = CatalogCalls()
  private let writes: WriteQueue
  private let busyTimeout: TimeInterval

  package static let fileName = "catalog.sqlite"
  /// Readers at one time; more wait for their turn.
  package static let maximumReaderCount = 8
  /// What a change waits at least, in seconds.
  private static let leastWait: TimeInterval = 1

  /// Opens the catalog in `stateFolder`, which is made (0700) if it isn't there, and brings its schema up to date.
  /// `busyTimeout`: how many seconds a change waits for its turn and for a lock that another program (sqlite3, a
  /// backup tool) holds, unless its ``CatalogDeadline`` says otherwise.
  package init(
    stateFolder: String, busyTimeout: TimeInterval = 10, migrations: [Migration] = Migration.embedded
  ) throws(CatalogOpenError) {
    let history = try MigrationHistory(path: stateFolder + "/" + Self.fileName, migrations: migrations)
    try Self.makeFolder(stateFolder)
    path = stateFolder + "/" + Self.fileName
    self.busyTimeout = busyTimeout
    claim = try StateFolderLock(folder: stateFolder)
    try Self.makeFile(path, in: stateFolder)
    do {
      pool = try DatabasePool(path: path, configuration: Self.configuration(busyTimeout: busyTimeout))
      writes = WriteQueue(pool)
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
    try calls.begin(.read)
    defer { calls.end(.read) }
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
    try calls.begin(.write)
    defer { calls.end(.write) }
    let deadline = deadline()
    do {
      return try await withCheckedThrowingContinuation { continuation in
        let entry = WriteQueue.Entry(deadline: deadline) { database in
          continuation.resume(with: Self.transaction(in: database, until: deadline, body))
        } refuse: { [path] in
          continuation.resume(throwing: DomainError.catalogBusy(path))
        }
        writes.submit(entry)
      }
    } catch let error as DatabaseError {
      throw DomainError(error, at: path)
    }
  }

  /// A deadline that has passed, or is about to, still leaves each change a moment.
  private func deadline() -> ContinuousClock.Instant {
    let now = ContinuousClock.now
    guard let asked = CatalogDeadline.current else { return now + .seconds(busyTimeout) }
    return max(asked, now + .seconds(min(Self.leastWait, busyTimeout)))
  }

  private static func transaction<Result>(
    in database: Database, until deadline: ContinuousClock.Instant, _ body: (any CatalogWriting) throws -> Result
  ) -> Swift.Result<Result, any Error> {
    LockWait.$deadline.withValue(deadline) {
      Swift.Result {
        var result: Result?
        try database.inTransaction(.immediate) {
          result = try body(CatalogSession(database))
          return .commit
        }
        guard let result else { preconditionFailure("a transaction that committed has a result") }
        return result
      }
    }
  }

  package var unfinished: [String] { calls.descriptions }

  package func close() throws {
    guard calls.close() else { return }
    calls.waitForNone()
    defer { claim.release() }
    emptyLog()
    do { try pool.close() } catch let error as DatabaseError { throw DomainError(error, at: path) }
  }

  /// Moves what the log holds into the database: from then on the one file is all of the catalog, for those who copy it.
  /// GRDB closes its readers last, and SQLite moves nothing when the last connection may only read. The log stays where
  /// another program reads the catalog, or storage fails: the next start takes it up.
  private func emptyLog() {
    try? pool.writeWithoutTransaction { database in
      _ = try LockWait.$deadline.withValue(.now) { try database.checkpoint(.truncate) }
    }
  }

  /// Failures that say nothing against the file's content.
  private static let storageFailures: [ResultCode] = [
    .SQLITE_FULL, .SQLITE_IOERR, .SQLITE_CANTOPEN, .SQLITE_READONLY, .SQLITE_PERM, .SQLITE_BUSY, .SQLITE_LOCKED,
  ]

  private static func configuration(busyTimeout: TimeInterval) -> GRDB.Configuration {
    var configuration = GRDB.Configuration()
    configuration.busyMode = .callback { LockWait.goesOn(tries: $0, limit: busyTimeout) }
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

  /// Makes the file for its owner alone before SQLite would make it for all users (its log takes over the mode), and
  /// makes its name durable.
  private static func makeFile(_ path: String, in folder: String) throws(CatalogOpenError) {
    guard FileDescriptor(result: open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o600)) != nil else {
      throw .unusable(path: path, cause: String(cString: strerror(errno)))
    }
    // Some network and FUSE file systems don't know the call for folders: their server decides when names last.
    guard let directory = FileDescriptor(result: open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC)),
      fsync(directory.rawValue) == 0 || [EINVAL, EOPNOTSUPP, ENOSYS].contains(errno)
    else { throw .unusable(path: folder, cause: String(cString: strerror(errno))) }
  }
}
