import Catalog
import Dispatch
import Foundation
import GRDB
import Model
import ModelTesting
import Testing

/// A large catalog of the version before is brought up to date in bounded time, and keeps each of its rows.
struct LargeUpgradeTests {
  private let folder: TemporaryFolder

  init() throws { folder = try TemporaryFolder() }

  /// The migrations that rest on what is tested here.
  private static let versionsBefore = 3
  private static let longest = Duration.seconds(20)

  @Test func aHundredThousandRowsAreMovedOnceAndEachIsKept() async throws {
    try await open(with: Array(Migration.embedded.prefix(Self.versionsBefore)))
    try await queue().write { database in
      for statement in Self.rows { try database.execute(sql: statement) }
    }
    let before = folder.path("before.sqlite")
    try await queue().writeWithoutTransaction { try $0.execute(sql: "VACUUM INTO '\(before)'") }

    let start = ContinuousClock.now
    try await open(with: Migration.embedded)
    #expect(ContinuousClock.now - start < Self.longest)

    try await queue().writeWithoutTransaction { database in
      try database.execute(sql: "ATTACH '\(before)' AS before")
      var total = 0
      for (table, old, new) in Self.tables {
        let count = try Int.fetchOne(database, sql: "SELECT count(*) FROM before.\(table)") ?? 0
        #expect(try Int.fetchOne(database, sql: "SELECT count(*) FROM main.\(table)") == count, "\(table)")
        for (left, right) in [("before", "main"), ("main", "before")] {
          let columns = ["before": old, "main": new]
          let lost = try Row.fetchOne(
            database,
            sql: """
              SELECT \(columns[left] ?? "") FROM \(left).\(table)
              EXCEPT SELECT \(columns[right] ?? "") FROM \(right).\(table)
              """)
          #expect(lost == nil, "\(table): only in \(left)")
        }
        total += count
      }
      #expect(total >= 100_000)
      #expect(try String.fetchAll(database, sql: "PRAGMA main.integrity_check") == ["ok"])
      #expect(try Row.fetchAll(database, sql: "PRAGMA main.foreign_key_check").isEmpty)
      let sequence = "SELECT seq FROM sqlite_sequence WHERE name = 'events'"
      #expect(try Int.fetchOne(database, sql: sequence) == 30_500)
    }
  }

  /// Opens the catalog and closes it. On a thread of its own: it takes seconds, for which other tests have none to spare.
  private func open(with migrations: [Migration]) async throws {
    let path = folder.path
    try await withCheckedThrowingContinuation { continuation in
      DispatchQueue.global().async {
        continuation.resume(with: Result { try SQLiteCatalog(stateFolder: path, migrations: migrations).close() })
      }
    }
  }

  private func queue() throws -> DatabaseQueue { try DatabaseQueue(path: folder.path(SQLiteCatalog.fileName)) }

  /// Each table, and its columns before and after.
  private static let tables: [(String, String, String)] = {
    let images = """
      id, name, source_kind, source_place, format, virtual_size, state, attached_cache, attached_by, damaged_since,
      damaged_why, damaged_job, labels, managed_by, created_at, revision
      """
    let repositories = "id, name, kind, path, state, READ_ONLY, managed_by, created_at, revision"
    let backups = """
      id, image, repository, chain, sequence, group_id, kind, requested_kind, reason, parent, state, compression,
      consistency, MIXTURE, point_in_time, created_at, finished_at, virtual_size, dirty_bytes, stored_size,
      merkle_root, verified_at, verify_level, job, failure, state_before_deletion, failure_before_deletion, revision
      """
    let exports = """
      id, name, image, backup, read_only, listen_kind, listen_address, listen_port, tls, allocation_depth, state, failure,
      created_at, revision
      """
    let jobs = """
      id, kind, request, state, progress_done, progress_total, progress_rate, progress_eta, created_at, started_at,
      finished_at, waiting_for, paused_until, retry_of, result, error, links, revision
      """
    // A flag that was null is no.
    return [
      ("images", images, images),
      ("repositories", repositories.replacing("READ_ONLY", with: "coalesce(read_only, 0)"), repositories),
      ("chains", "*", "*"),
      ("backups", backups.replacing("MIXTURE", with: "coalesce(mixture, 0)"), backups),
      ("exports", exports, exports), ("jobs", jobs, jobs), ("job_log", "*", "*"), ("events", "*", "*"),
      (
        "idempotency_keys", "who, route, key, body_hash, status, headers, body, created_at",
        "who, route, key, body_hash, answer ->> 'status', answer -> 'headers', answer ->> 'body', created_at"
      ),
    ]
  }()

  private static func numbers(_ count: Int) -> String {
    "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < \(count))"
  }

  /// An id for each number, in order.
  private static func id(_ kind: Character, _ number: String) -> String {
    "'01J\(kind)' || substr('0000000000000000000000' || (\(number)), -22)"
  }

  /// Values of every kind in every column, nulls included; 110,000 rows together. The newest events were pruned.
  private static let rows = [
    """
    \(numbers(2000)) INSERT INTO images SELECT \(id("A", "i")), 'vm' || i,
      iif(i % 3 = 0, 'file', iif(i % 3 = 1, 'device', 'nbd')), '/images/ü''' || i, iif(i % 2, 'raw', 'qcow2'), i << 30,
      iif(i % 5, 'detached', iif(i % 2, 'attached', 'unavailable')), iif(i % 5, NULL, 'direct'),
      iif(i % 5, NULL, 'export'), '{"n":"' || i || '"}', iif(i % 4, 'api', 'config'), 1767225600001 + i, i + 1,
      iif(i % 7, NULL, i), iif(i % 7, NULL, 'why ' || i), iif(i % 7, NULL, \(id("J", "i"))) FROM n
    """,
    """
    \(numbers(10)) INSERT INTO repositories SELECT \(id("R", "i")), 'r' || i, 'directory', '/backup/' || i,
      iif(i % 2, 'ready', 'unavailable'), 'api', i, i + 1, iif(i % 3, i % 3 - 1, NULL) FROM n
    """,
    "\(numbers(2000)) INSERT INTO chains SELECT \(id("C", "i")), \(id("A", "i")), 'vm' || i, \(id("R", "i % 10")), i FROM n",
    """
    \(numbers(30_000)) INSERT INTO backups SELECT \(id("B", "i")), \(id("A", "i % 2000")), \(id("R", "i % 10")),
      \(id("C", "i % 2000")), i / 2000, \(id("G", "i")), iif(i % 2, 'full', 'copy'), 'full', 'asked for ' || i,
      iif(i % 3, NULL, \(id("B", "i - 3"))), iif(i % 11, 'complete', iif(i % 2, 'failed', 'corrupt')),
      iif(i % 2, 'zstd', 'none'), 'offline', i, i + 1, iif(i % 13, i + 2, NULL), i << 20, i << 10, i << 9,
      iif(i % 11, hex(i), NULL), iif(i % 4, NULL, i), iif(i % 4, NULL, 'checksum'), iif(i % 6, \(id("J", "i")), NULL),
      iif(i % 11, NULL, 'out of room'), i + 1, iif(i % 5, NULL, i % 2), iif(i % 17, NULL, 'expired'),
      iif(i % 34, NULL, 'before') FROM n
    """,
    """
    \(numbers(500)) INSERT INTO exports SELECT \(id("E", "i")), 'e' || i, iif(i % 2, \(id("A", "i")), NULL),
      iif(i % 2, NULL, \(id("B", "i"))), i % 2, 'tcp', '::1', i + 1, NULL, 0, 'active', NULL, i, 1 FROM n
    """,
    """
    \(numbers(20_000)) INSERT INTO jobs SELECT \(id("J", "i")), iif(i % 2, 'rescan', 'attach'), '{"i":' || i || '}',
      iif(i % 3, 'succeeded', iif(i % 2, 'paused', 'queued')), i, i + 1, i + 2, iif(i % 2, i, NULL), i, i, NULL,
      iif(i % 5, NULL, 'room'), iif(i % 7, NULL, \(id("J", "i - 1"))), iif(i % 2, '[1,null]', NULL),
      iif(i % 9, NULL, '{"code":"x"}'), '{}', i + 1, iif(i % 3, NULL, i) FROM n
    """,
    "\(numbers(24_990)) INSERT INTO job_log SELECT \(id("J", "i % 20000")), i, i, 'info', 'entry ' || i FROM n",
    """
    \(numbers(30_500)) INSERT INTO events (at, kind, subject, job, payload) SELECT i,
      iif(i % 2, 'job.changed', 'export.created'), \(id("A", "i % 2000")), iif(i % 3, NULL, \(id("J", "i % 20000"))),
      '{"n":' || i || '}' FROM n
    """,
    "DELETE FROM events WHERE id > 30000",
    "\(numbers(500)) INSERT INTO idempotency_keys SELECT 'admin', 'POST /x', 'k' || i, 'ab', 201, '{}', '{}', i FROM n",
  ]
}
