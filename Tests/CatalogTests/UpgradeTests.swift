import Catalog
import Foundation
import GRDB
import Model
import ModelTesting
import Testing

/// A catalog as an older release left it, with rows in every table, is opened by this one.
struct UpgradeTests {
  private let folder: TemporaryFolder

  init() throws { folder = try TemporaryFolder() }

  @Test func aReleasedMigrationIsNeverEdited() {
    let released = [
      "V0001_catalog.sql": "2be5e22573821c569b57e9cbd7fd621cde490ed4966ec08b94b1905f3cb3bccc",
      "V0002_exports.sql": "74e9453e130cb0f6b21ebef4b94a39ac4b5228d39dfef5b1042ddd5f0f877f67",
      "V0003_damage_and_pauses.sql": "33f73c1b11f4e3cf43667842cf389cddc59f0d6807ee65d4eea753b166035770",
    ]
    for (name, sha256) in released {
      #expect(Migration.embedded.first { $0.name == name }?.sha256 == sha256, "\(name)")
    }
  }

  @Test func aCatalogOfTheFirstSchemaKeepsEveryRow() async throws {
    try await makeFirstCatalog()
    let before = try await rows(imageSource: "source_path", answer: "status, headers, body")
    #expect(before.keys.sorted() == Self.columns.keys.sorted())
    for (table, rows) in before { #expect(!rows.isEmpty, "\(table) has rows to lose") }

    try SQLiteCatalog(stateFolder: folder.path).close()
    let after = try await rows(
      imageSource: "source_place", answer: "answer ->> 'status', answer -> 'headers', answer ->> 'body'")
    for (table, rows) in before { #expect(after[table] == rows, "\(table)") }
    let checks = try await queue().read { database in
      try ["integrity_check", "foreign_key_check"].map { try String.fetchAll(database, sql: "PRAGMA \($0)") }
    }
    #expect(checks == [["ok"], []])
  }

  @Test func whatTheFirstSchemaHeldIsReadAsItWas() async throws {
    try await makeFirstCatalog()
    let catalog = try SQLiteCatalog(stateFolder: folder.path)
    try catalog.read { (view: any CatalogReading) throws in
      let images = try view.images(PageRequest()).items
      #expect(images.map(\.source) == [.file(path: "/images/a'b.raw"), .device(path: "/dev/vg0/b"), .file(path: "/c")])
      #expect(images.allSatisfy { $0.attachment == nil })
      #expect(images.map(\.revision) == [1, 2, 3])
      #expect(try view.repositories(PageRequest()).items.count == 1)
      #expect(try view.chains(image: nil, repository: nil, PageRequest()).items.count == 1)
      let backups = try view.backups(BackupFilter(), PageRequest()).items
      #expect(backups.count == 2 && backups.allSatisfy { $0.groupImages.isEmpty })
      #expect(backups.allSatisfy { $0.tracker == ($0.kind == .copy ? nil : .standard(of: $0.repository)) })
      #expect(try view.backups(ofGroup: backups[0].group, PageRequest()).items == backups)
      #expect(try view.exports(ExportFilter(), PageRequest()).items.isEmpty)
      let jobs = try view.jobs(JobFilter(), PageRequest()).items
      #expect(jobs.map(\.request.kind) == [.backup, .verify, .restore, .restore, .deleteBackup, .rescan])
      for job in jobs { #expect(try view.jobLog(job.id, PageRequest()).items.map(\.message) == ["one", "two"]) }
      let key = IdempotencyKey(who: "admin", route: "POST /x", key: "k")
      #expect(try view.idempotencyRecord(key)?.answer == Self.keptAnswer)
    }
    try catalog.close()
  }

  /// The newest events were pruned: the counter stands above every row.
  @Test(arguments: [true, false])
  func noEventIDComesBackAfterTheUpgrade(_ areAllPruned: Bool) async throws {
    try await makeFirstCatalog()
    try await queue().write { database in
      try database.execute(sql: areAllPruned ? "DELETE FROM events" : "DELETE FROM events WHERE id > 4")
    }
    let catalog = try SQLiteCatalog(stateFolder: folder.path)
    let next = try await catalog.write { transaction in
      try transaction.append(Event(at: ManualClock.epoch, kind: .exportCreated, subject: ULID()))
    }
    #expect(next.id == 12)
    let counters = try catalog.read { try ($0 as? CatalogSession)?.texts("SELECT name FROM sqlite_sequence") }
    #expect(counters == ["events"])
    try catalog.close()
  }

  @Test func afterTheUpgradeALogStillGoesWithItsJobAndNewKindsAreTaken() async throws {
    try await makeFirstCatalog()
    let catalog = try SQLiteCatalog(stateFolder: folder.path)
    let first = try #require(try catalog.read { try $0.jobs(JobFilter(), PageRequest(limit: 1)).items.first })
    let job = Job.sample(.attach(image: ImageID(), cache: nil))
    try await catalog.write { transaction in
      try transaction.insert(job)
      try transaction.append(JobLogEntry(sequence: 1, at: ManualClock.epoch, level: .info, message: "x"), to: job.id)
      try (transaction as? CatalogSession)?.execute("DELETE FROM jobs WHERE id = '\(first.id)'")
    }
    #expect(try catalog.read { try $0.jobLog(first.id, PageRequest()).items.isEmpty })
    #expect(try catalog.read { try $0.jobLog(job.id, PageRequest()).items.count } == 1)
    try catalog.close()
  }

  // MARK: The first schema

  private static let columns = [
    "images": "id, name, source_kind, SOURCE, format, virtual_size, state, labels, managed_by, created_at, revision",
    "repositories": "id, name, kind, path, state, managed_by, created_at, revision",
    "chains": "*",
    "backups": """
    id, image, repository, chain, sequence, group_id, kind, requested_kind, reason, parent, state, compression, \
    consistency, point_in_time, created_at, finished_at, virtual_size, dirty_bytes, stored_size, merkle_root, \
    verified_at, verify_level, job, failure, revision
    """,
    "jobs": """
    id, kind, request, state, progress_done, progress_total, progress_rate, progress_eta, created_at, started_at, \
    finished_at, waiting_for, retry_of, result, error, links, revision
    """,
    "job_log": "*", "events": "*", "idempotency_keys": "who, route, key, body_hash, ANSWER, created_at",
  ]

  private static let keptAnswer = #"{"status":201,"headers":{"ETag":"1"},"body":"{}"}"#

  private func queue() throws -> DatabaseQueue { try DatabaseQueue(path: folder.path(SQLiteCatalog.fileName)) }

  /// Every row of each table of the first schema, as text.
  private func rows(imageSource: String, answer: String) async throws -> [String: [String]] {
    try await queue().read { database in
      try Self.columns.reduce(into: [:]) { tables, table in
        let columns = table.value.replacing("SOURCE", with: imageSource).replacing("ANSWER", with: answer)
        let rows = try Row.fetchAll(database, sql: "SELECT \(columns) FROM \(table.key) ORDER BY 1, 2")
        tables[table.key] = rows.map { row in row.databaseValues.map { "\($0)" }.joined(separator: "|") }
      }
    }
  }

  private func makeFirstCatalog() async throws {
    let catalog = try SQLiteCatalog(stateFolder: folder.path, migrations: Array(Migration.embedded.prefix(1)))
    try await catalog.write { transaction in
      let session = try #require(transaction as? CatalogSession)
      for statement in Self.firstRows { try session.execute(statement) }
    }
    try catalog.close()
  }

  /// An id for each number below 10, in order.
  private static func id(_ kind: Character, _ number: Int) -> String {
    "01J\(kind)\(number)" + String(repeating: "0", count: 21)
  }

  private static var firstRows: [String] {
    let backup = id("B", 0)
    let requests = [
      (
        "backup",
        #"{"backup":{"_0":{"backups":["\#(backup)"],"compression":"zstd","group":"\#(backup)","images":["\#(id("A", 0))"],"#
          + #""kind":"full","repository":"\#(id("R", 0))","speedLimit":0}}}"#
      ),
      ("verify", #"{"verify":{"backup":"\#(backup)","level":"checksum"}}"#),
      ("restore", #"{"restore":{"backup":"\#(backup)","target":{"newFile":{"format":"raw","path":"/a.raw"}}}}"#),
      ("restore", #"{"restore":{"backup":"\#(backup)","target":{"image":{"_0":"\#(id("A", 1))"}}}}"#),
      ("delete-backup", #"{"deleteBackup":{"backup":"\#(backup)"}}"#),
      ("rescan", #"{"rescan":{"repository":"\#(id("R", 0))"}}"#),
    ]
    return [
      """
      INSERT INTO images VALUES
      ('\(id("A", 0))', 'vm1', 'file', '/images/a''b.raw', 'raw', 1048576, 'detached', '{}', 'api', 1767225600001, 1),
      ('\(id("A", 1))', 'vm2', 'device', '/dev/vg0/b', 'qcow2', 0, 'unavailable', '{"tier":"gold"}', 'config', 2, 2),
      ('\(id("A", 2))', 'vm3', 'file', '/c', 'raw', 9223372036854775807, 'detached', '{"ü":"\\n"}', 'api', 3, 3);
      INSERT INTO repositories VALUES ('\(id("R", 0))', 'local', 'directory', '/backup', 'ready', 'config', 4, 5);
      INSERT INTO chains VALUES ('\(id("C", 0))', '\(id("A", 0))', 'vm1', '\(id("R", 0))', 6);
      INSERT INTO backups VALUES
      ('\(backup)', '\(id("A", 0))', '\(id("R", 0))', '\(id("C", 0))', 0, '\(backup)', 'full', 'full', 'asked for',
       NULL, 'complete', 'zstd', 'offline', 7, 8, 9, 10, 11, 12, '5a5a', 13, 'checksum', '\(id("J", 0))', NULL, 4),
      ('\(id("B", 1))', '\(id("A", 0))', '\(id("R", 0))', '\(id("C", 0))', 1, '\(backup)', 'copy', 'full', 'asked for',
       '\(backup)', 'failed', 'none', 'crash', 7, 8, NULL, 10, 11, 12, NULL, NULL, NULL, NULL, 'out of room', 1);
      INSERT INTO idempotency_keys VALUES ('admin', 'POST /x', 'k', 'ab', 201, '{"ETag":"1"}', '{}', 14);
      """
    ]
      + requests.enumerated().map { index, request in
        """
        INSERT INTO jobs VALUES ('\(id("J", index))', '\(request.0)', '\(request.1)', 'succeeded', 1, 2, 3, NULL, 15, 16,
          17, 'room', NULL, '{"a":[1,null]}', NULL, '{"image":"\(id("A", 0))"}', \(index + 1));
        INSERT INTO job_log VALUES ('\(id("J", index))', 1, 18, 'info', 'one'), ('\(id("J", index))', 2, 19, 'error', 'two');
        """
      }
      + Event.Kind.allCases.filter { kind in
        !["export.", "bitmap.", "fleecing."].contains { kind.rawValue.hasPrefix($0) }
      }
      .enumerated().map { index, kind in
        """
        INSERT INTO events (at, kind, subject, job, payload)
        VALUES (20, '\(kind.rawValue)', '\(id("A", 0))', \(index % 2 == 0 ? "NULL" : "'\(id("J", 0))'"), '{"n":\(index)}');
        """
      }
  }
}
