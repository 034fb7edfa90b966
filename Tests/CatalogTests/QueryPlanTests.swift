import Catalog
import Foundation
import GRDB
import Model
import ModelTesting
import Testing

/// Every list and look-up, on a catalog that is large enough for a scan to hurt.
struct QueryPlanTests {
  private let folder: TemporaryFolder

  init() throws { folder = try TemporaryFolder() }

  private static let reads: [@Sendable (any CatalogReading, Backup, JobID) throws -> Void] = [
    { view, backup, _ in
      let cursor = PageCursor.text(.backups, after: backup.id)
      for after in [nil, cursor] {
        for bits in 0..<16 {
          let filter = BackupFilter(
            image: bits & 1 == 0 ? nil : backup.image, repository: bits & 2 == 0 ? nil : backup.repository,
            chain: bits & 4 == 0 ? nil : backup.chain, state: bits & 8 == 0 ? nil : .complete)
          _ = try view.backups(filter, PageRequest(after: after, limit: 10))
        }
      }
      for after in [nil, cursor] {
        _ = try view.backups(ofGroup: backup.group, PageRequest(after: after, limit: 10))
      }
      _ = try view.backup(backup.id)
      _ = try view.dependents(of: [backup.id, BackupID()])
      _ = try view.exported(among: [backup.id, BackupID()])
      _ = try view.backups(of: [backup.chain, ChainID()])
    },
    { view, backup, _ in
      for (image, repository) in [
        (nil, nil), (backup.image, nil), (nil, backup.repository), (backup.image, backup.repository),
      ] {
        _ = try view.chains(image: image, repository: repository, PageRequest(limit: 10))
      }
      _ = try view.chain(backup.chain)
      _ = try view.chains([backup.chain, ChainID()])
      _ = try view.repositories([backup.repository, RepositoryID()])
    },
    { view, backup, _ in
      _ = try view.images(PageRequest())
      _ = try view.image(backup.image)
      _ = try view.images([backup.image, ImageID()])
      _ = try view.image(named: "vm1")
      _ = try view.repositories(PageRequest())
      _ = try view.repository(backup.repository)
      _ = try view.repository(named: "local")
    },
    { view, backup, _ in
      for filter in [ExportFilter(), ExportFilter(image: backup.image), ExportFilter(backup: backup.id)] {
        let cursor = PageCursor.text(.exports, after: ExportID())
        for after in [nil, cursor] { _ = try view.exports(filter, PageRequest(after: after, limit: 10)) }
      }
      _ = try view.export(ExportID())
      _ = try view.export(named: "disk0")
    },
    { view, _, _ in
      for states in [nil, Fleecing.State.live] { _ = try view.fleecings(FleecingFilter(states: states), PageRequest()) }
      _ = try view.fleecing(FleecingID())
      _ = try view.fleecingCheckpoints(of: ImageID())
    },
    { view, _, job in
      for states in [nil, [JobState.queued, .running]] as [Set<JobState>?] {
        for kind in [nil, JobKind.backup] { _ = try view.jobs(JobFilter(states: states, kind: kind), PageRequest()) }
      }
      _ = try view.job(job)
      _ = try view.jobLog(job, PageRequest())
    },
    { view, _, job in
      _ = try view.events(after: 5, job: nil, limit: 10)
      _ = try view.events(after: 5, job: job, limit: 10)
      _ = try view.eventSpan()
      _ = try view.idempotencyRecord(IdempotencyKey(who: "a", route: "b", key: "c"))
    },
  ]

  @Test func everyReadGoesByAnIndex() async throws {
    let catalog = try SQLiteCatalog(stateFolder: folder.path)
    let (backup, job) = try await fill(catalog, backups: 10_000)
    try catalog.close()

    let (queue, statements) = try traced()
    try await queue.read { database in
      for read in Self.reads { try read(CatalogSession(database), backup, job) }
    }
    let selects = Set(statements.all.filter { $0.hasPrefix("SELECT") && !$0.contains("sqlite_") })
    #expect(selects.count > 50)
    for sql in selects {
      let plan = try await queue.read { database in
        try Row.fetchAll(database, sql: "EXPLAIN QUERY PLAN \(sql)").map { $0["detail"] as String }
      }
      let isFiltered = sql.contains(" = '")
      #expect(!isFiltered || plan.contains { $0.contains("=?") }, "the filter of \(sql) has no index: \(plan)")
      // The ids that a statement asks about come as a list of their own.
      let steps = plan.filter { !$0.contains("json_each") }
      #expect(!steps.contains { $0.contains("SCAN") || $0.contains("TEMP B-TREE") }, "\(sql): \(plan)")
    }
    try queue.close()
  }

  /// Of two indexes for one filter the wrong one reads a million rows for a page of ten.
  @Test(arguments: [
    ("image", "backups_by_image (image=? AND id>?)"),
    ("image state", "backups_by_image_and_state (image=? AND state=? AND id>?)"),
    ("image repository", "backups_by_image (image=? AND id>?)"),
    ("image repository state", "backups_by_image_and_state (image=? AND state=? AND id>?)"),
    ("repository", "backups_by_repository (repository=? AND id>?)"),
    ("repository state", "backups_by_repository_and_state (repository=? AND state=? AND id>?)"),
    ("state", "backups_by_state (state=? AND id>?)"),
    ("chain", "backups_by_chain (chain=? AND id>?)"),
    ("chain image repository state", "backups_by_chain (chain=? AND id>?)"),
  ])
  func aListOfBackupsReadsByTheNarrowestOfItsFilters(_ filters: String, _ index: String) async throws {
    let given = Set(filters.split(separator: " "))
    let plan = try await self.plan { view in
      let filter = BackupFilter(
        image: given.contains("image") ? ImageID() : nil,
        repository: given.contains("repository") ? RepositoryID() : nil,
        chain: given.contains("chain") ? ChainID() : nil, state: given.contains("state") ? .complete : nil)
      _ = try view.backups(filter, PageRequest())
    }
    #expect(plan == ["SEARCH backups USING INDEX \(index)"])
  }

  @Test func aGroupIsReadByItsIndex() async throws {
    let plan = try await self.plan { _ = try $0.backups(ofGroup: ULID(), PageRequest()) }
    #expect(plan == ["SEARCH backups USING INDEX backups_by_group (group_id=? AND id>?)"])
  }

  @Test func linesAndCheckpointsOfAnImageAreReadByTheirIndexes() async throws {
    let tracker = TrackerName.standard(of: RepositoryID())
    let newest = try await plan { _ = try $0.newestBackup(of: ImageID(), in: RepositoryID(), tracker: tracker) }
    #expect(newest == ["SEARCH backups USING INDEX backups_by_tracker (image=? AND repository=? AND tracker=?)"])
    let checkpoints = try await plan { _ = try $0.checkpoints(of: ImageID(), PageRequest()) }
    #expect(checkpoints == ["SEARCH backups USING INDEX backups_by_checkpoint (image=? AND id>?)"])
  }

  @Test func aListOfJobsReadsByKindAndState() async throws {
    let plan = try await self.plan { view in
      _ = try view.jobs(JobFilter(states: [.failed], kind: .check), PageRequest())
    }
    #expect(plan == ["SEARCH jobs USING INDEX jobs_by_kind_and_state (kind=? AND state=? AND id>?)"])
  }

  /// How SQLite carries out the one statement that `read` runs.
  private func plan(_ read: @Sendable @escaping (any CatalogReading) throws -> Void) async throws -> [String] {
    try SQLiteCatalog(stateFolder: folder.path).close()
    let (queue, statements) = try traced()
    defer { try? queue.close() }
    return try await queue.read { database in
      try read(CatalogSession(database))
      let selects = statements.all.filter { $0.hasPrefix("SELECT") && !$0.contains("sqlite_") }
      let sql = try #require(selects.first)
      #expect(selects.count == 1)
      return try Row.fetchAll(database, sql: "EXPLAIN QUERY PLAN \(sql)").map { $0["detail"] as String }
    }
  }

  private func traced() throws -> (DatabaseQueue, StatementLog) {
    let statements = StatementLog()
    var configuration = GRDB.Configuration()
    configuration.prepareDatabase { database in
      database.trace(options: .statement) { event in
        if case .statement(let statement) = event { statements.append(statement.expandedSQL) }
      }
    }
    configuration.publicStatementArguments = true
    return (try DatabaseQueue(path: folder.path(SQLiteCatalog.fileName), configuration: configuration), statements)
  }

  private func fill(_ catalog: SQLiteCatalog, backups count: Int) async throws -> (Backup, JobID) {
    let image = Image.sample("vm1")
    let repository = Repository.sample("local")
    let chain = Chain.sample(of: image, in: repository)
    let backup = Backup.sample(in: chain)
    let job = Job.sample(state: .running)
    try await catalog.write { transaction in
      try transaction.insert(image)
      try transaction.insert(repository)
      try transaction.insert(chain)
      try transaction.insert(job)
      try transaction.insert(backup)
      for _ in 1..<count { try transaction.insert(Backup.sample(in: chain)) }
      for index in 0..<500 {
        let source: ExportSource = index % 2 == 0 ? .image(image.id) : .backup(backup.id)
        try transaction.insert(Export.sample(try #require(ResourceName("disk\(index)")), of: source))
      }
    }
    return (backup, job.id)
  }
}

/// What a connection ran. Its lock is the standard library's of Foundation, as traces come on the queue's thread.
private final class StatementLog: @unchecked Sendable {
  // Safe to share: `statements` is touched only while `lock` is held.
  private let lock = NSLock()
  private var statements: [String] = []

  func append(_ sql: String) { lock.withLock { statements.append(sql) } }

  var all: [String] { lock.withLock { statements } }
}
