import Foundation
import GRDB
import Model

extension CatalogSession: CatalogWriting {
  // MARK: Images

  package func insert(_ image: Image) throws {
    try refuseExisting(ImageRow.table, "image", image.id)
    try refuseTaken(image.name, ImageRow.table, "image", image.id)
    try insert(ImageRow(image))
  }

  @discardableResult
  package func update(_ image: Image) throws -> Image {
    try checkRevision(ImageRow.table, "image", image.id, given: image.revision)
    try refuseTaken(image.name, ImageRow.table, "image", image.id)
    var raised = image
    raised.revision += 1
    try overwrite(ImageRow(raised), id: image.id.description)
    return raised
  }

  package func delete(_ image: ImageID) throws { try delete(ImageRow.table, "image", image) }

  // MARK: Repositories

  package func insert(_ repository: Repository) throws {
    try refuseExisting(RepositoryRow.table, "repository", repository.id)
    try refuseTaken(repository.name, RepositoryRow.table, "repository", repository.id)
    try insert(RepositoryRow(repository))
  }

  @discardableResult
  package func update(_ repository: Repository) throws -> Repository {
    try checkRevision(RepositoryRow.table, "repository", repository.id, given: repository.revision)
    try refuseTaken(repository.name, RepositoryRow.table, "repository", repository.id)
    var raised = repository
    raised.revision += 1
    try overwrite(RepositoryRow(raised), id: repository.id.description)
    return raised
  }

  package func delete(_ repository: RepositoryID) throws {
    try execute("DELETE FROM backups WHERE repository = ?", repository.description)
    try execute("DELETE FROM chains WHERE repository = ?", repository.description)
    try delete(RepositoryRow.table, "repository", repository)
  }

  // MARK: Chains and backups

  package func insert(_ chain: Chain) throws {
    try refuseExisting(ChainRow.table, "chain", chain.id)
    try requireRow(RepositoryRow.table, "repository", chain.repository)
    try insert(ChainRow(chain))
  }

  package func setImageName(_ name: ResourceName, onChainsOf image: ImageID) throws {
    try execute("UPDATE chains SET image_name = ? WHERE image = ?", name.text, image.description)
  }

  package func delete(_ chain: ChainID) throws {
    let backups = try value(Int.self, "SELECT 1 FROM backups WHERE chain = ? LIMIT 1", chain.description)
    guard backups == nil else { throw CatalogRefusal.chainNotEmpty(chain) }
    try delete(ChainRow.table, "chain", chain)
  }

  package func insert(_ backup: Backup) throws {
    try refuseExisting(BackupRow.table, "backup", backup.id)
    try requireRow(RepositoryRow.table, "repository", backup.repository)
    try requireRow(ChainRow.table, "chain", backup.chain)
    try insert(BackupRow(backup))
  }

  @discardableResult
  package func update(_ backup: Backup) throws -> Backup {
    try checkRevision(BackupRow.table, "backup", backup.id, given: backup.revision)
    var raised = backup
    raised.revision += 1
    try overwrite(BackupRow(raised), id: backup.id.description)
    return raised
  }

  package func delete(_ backup: BackupID) throws { try delete(BackupRow.table, "backup", backup) }

  // MARK: Exports

  package func insert(_ export: Export) throws {
    try refuseExisting(ExportRow.table, "export", export.id)
    try refuseTaken(export.name, ExportRow.table, "export", export.id)
    try insert(ExportRow(export))
  }

  @discardableResult
  package func update(_ export: Export) throws -> Export {
    try checkRevision(ExportRow.table, "export", export.id, given: export.revision)
    try refuseTaken(export.name, ExportRow.table, "export", export.id)
    var raised = export
    raised.revision += 1
    try overwrite(ExportRow(raised), id: export.id.description)
    return raised
  }

  package func delete(_ export: ExportID) throws { try delete(ExportRow.table, "export", export) }

  // MARK: Jobs

  package func insert(_ job: Job) throws {
    try refuseExisting(JobRow.table, "job", job.id)
    try insert(JobRow(job))
  }

  @discardableResult
  package func update(_ job: Job) throws -> Job {
    try checkRevision(JobRow.table, "job", job.id, given: job.revision)
    var raised = job
    raised.revision += 1
    try overwrite(JobRow(raised), id: job.id.description)
    return raised
  }

  package func setProgress(_ progress: JobProgress, of job: JobID) throws {
    let columns = try ProgressColumns(progress)
    let changed = try execute(
      """
      UPDATE jobs SET progress_done = ?, progress_total = ?, progress_rate = ?, progress_eta = ? WHERE id = ?
      """, columns.done, columns.total, columns.rate, columns.eta, job.description)
    guard changed == 1 else { throw CatalogRefusal.missing("job", job) }
  }

  package func append(_ entry: JobLogEntry, to job: JobID) throws {
    try requireRow(JobRow.table, "job", job)
    let same = try value(
      Int.self, "SELECT 1 FROM job_log WHERE job = ? AND sequence = ?", job.description, entry.sequence)
    guard same == nil else { throw CatalogRefusal.exists("entry \(entry.sequence) of the log of job \(job)") }
    try insert(JobLogRow(entry), extra: ["job": job.description])
  }

  // MARK: Events and idempotency keys

  @discardableResult
  package func append(_ event: Event) throws -> Event {
    try insert(EventRow(event))
    var stored = event
    stored.id = database.lastInsertedRowID
    return stored
  }

  package func pruneEvents(keeping count: Int) throws {
    try execute(
      "DELETE FROM events WHERE id <= (SELECT id FROM events ORDER BY id DESC LIMIT 1 OFFSET ?)", max(count, 0))
  }

  package func insert(_ record: IdempotencyRecord) throws {
    guard try idempotencyRecord(record.key) == nil else { throw CatalogRefusal.keyAnswered(record.key) }
    try insert(IdempotencyRow(record))
  }

  package func deleteIdempotencyRecords(before date: Date) throws {
    try execute("DELETE FROM idempotency_keys WHERE created_at < ?", date.milliseconds)
  }
}

// MARK: Rules of the store

extension CatalogSession {
  private func refuseExisting<Entity>(_ table: String, _ kind: String, _ id: Identifier<Entity>) throws {
    guard try !hasRow(table, id.description) else { throw CatalogRefusal.exists("\(kind) \(id)") }
  }

  private func requireRow<Entity>(_ table: String, _ kind: String, _ id: Identifier<Entity>) throws {
    guard try hasRow(table, id.description) else { throw CatalogRefusal.missing(kind, id) }
  }

  private func hasRow(_ table: String, _ id: String) throws -> Bool {
    try value(Int.self, "SELECT 1 FROM \(table) WHERE id = ?", id) != nil
  }

  /// Throws if another row than `own` has the name.
  private func refuseTaken<Entity>(
    _ name: ResourceName, _ table: String, _ kind: String, _ own: Identifier<Entity>
  ) throws {
    guard let text = try value(String.self, "SELECT id FROM \(table) WHERE name = ?", name.text) else { return }
    let holder: Identifier<Entity> = try RowCheck(table: table, key: text).id(text)
    guard holder == own else { throw CatalogRefusal.nameTaken(name, kind, by: holder) }
  }

  private func checkRevision<Entity>(
    _ table: String, _ kind: String, _ id: Identifier<Entity>, given: Int
  ) throws {
    guard let stored = try value(Int.self, "SELECT revision FROM \(table) WHERE id = ?", id.description) else {
      throw CatalogRefusal.missing(kind, id)
    }
    guard stored == given else { throw CatalogRefusal.stale(kind, id, stored: stored, given: given) }
  }

  private func delete<Entity>(_ table: String, _ kind: String, _ id: Identifier<Entity>) throws {
    let changed = try execute("DELETE FROM \(table) WHERE id = ?", id.description)
    guard changed == 1 else { throw CatalogRefusal.missing(kind, id) }
  }
}
