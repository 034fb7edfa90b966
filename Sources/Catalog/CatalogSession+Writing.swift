import Foundation
import GRDB
import Model

extension CatalogSession: CatalogWriting {
  // MARK: Images

  package func insert(_ image: Image) throws { try insertNamed(image) }
  @discardableResult package func update(_ image: Image) throws -> Image { try updateNamed(image) }
  package func delete(_ image: ImageID) throws { try remove(image) }

  // MARK: Repositories

  package func insert(_ repository: Repository) throws { try insertNamed(repository) }
  @discardableResult package func update(_ repository: Repository) throws -> Repository { try updateNamed(repository) }

  package func delete(_ repository: RepositoryID) throws {
    try execute("DELETE FROM backups WHERE repository = ?", repository.description)
    try execute("DELETE FROM chains WHERE repository = ?", repository.description)
    try remove(repository)
  }

  // MARK: Chains and backups

  package func insert(_ chain: Chain) throws {
    try refuseExisting(chain.id)
    try requireRow(chain.repository)
    try store(chain)
  }

  package func setImageName(_ name: ResourceName, onChainsOf image: ImageID) throws {
    try execute("UPDATE chains SET image_name = ? WHERE image = ?", name.text, image.description)
  }

  package func delete(_ chain: ChainID) throws {
    let backups = try value(Int.self, "SELECT 1 FROM backups WHERE chain = ? LIMIT 1", chain.description)
    guard backups == nil else { throw CatalogRefusal.chainNotEmpty(chain) }
    try remove(chain)
  }

  package func insert(_ backup: Backup) throws {
    try refuseExisting(backup.id)
    try requireRow(backup.repository)
    try requireRow(backup.chain)
    try store(backup)
  }

  @discardableResult package func update(_ backup: Backup) throws -> Backup { try updateRevised(backup) }
  package func delete(_ backup: BackupID) throws { try remove(backup) }

  // MARK: Exports

  package func insert(_ export: Export) throws { try insertNamed(export) }
  @discardableResult package func update(_ export: Export) throws -> Export { try updateNamed(export) }
  package func delete(_ export: ExportID) throws { try remove(export) }

  // MARK: Fleecings

  package func insert(_ fleecing: Fleecing) throws {
    try refuseExisting(fleecing.id)
    try store(fleecing)
  }

  @discardableResult package func update(_ fleecing: Fleecing) throws -> Fleecing { try updateRevised(fleecing) }
  package func delete(_ fleecing: FleecingID) throws { try remove(fleecing) }

  package func insert(_ checkpoint: FleecingCheckpoint) throws {
    let same = try value(
      Int.self, "SELECT 1 FROM fleecing_checkpoints WHERE image = ? AND id = ?", checkpoint.image.description,
      checkpoint.id.description)
    guard same == nil else { throw CatalogRefusal.exists("checkpoint \(checkpoint.id) of image \(checkpoint.image)") }
    try store(checkpoint)
  }

  package func delete(_ checkpoint: FleecingCheckpoint) throws {
    try execute(
      "DELETE FROM fleecing_checkpoints WHERE image = ? AND id = ?", checkpoint.image.description,
      checkpoint.id.description)
  }

  // MARK: Jobs

  package func insert(_ job: Job) throws {
    try refuseExisting(job.id)
    try store(job)
  }

  @discardableResult package func update(_ job: Job) throws -> Job { try updateRevised(job) }

  package func setProgress(_ progress: JobProgress, of job: JobID) throws {
    let settings = Job.progressColumns.names.map { "\($0) = ?" }.joined(separator: ", ")
    let statement = try database.cachedStatement(sql: "UPDATE jobs SET \(settings) WHERE id = ?")
    try statement.execute(arguments: StatementArguments(try progress.stored() + [job.description.databaseValue]))
    guard database.changesCount == 1 else { throw CatalogRefusal.missing(Job.noun, job) }
  }

  package func append(_ entry: JobLogEntry, to job: JobID) throws {
    try requireRow(job)
    let same = try value(
      Int.self, "SELECT 1 FROM job_log WHERE job = ? AND sequence = ?", job.description, entry.sequence)
    guard same == nil else { throw CatalogRefusal.exists("entry \(entry.sequence) of the log of job \(job)") }
    try store(entry, with: ["job": job.description])
  }

  // MARK: Events and idempotency keys

  @discardableResult
  package func append(_ event: Event) throws -> Event {
    try store(event)
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
    try store(record)
  }

  package func deleteIdempotencyRecords(before date: Date) throws {
    try execute("DELETE FROM idempotency_keys WHERE created_at < ?", date.milliseconds)
  }
}

// MARK: Rules of the store

extension CatalogSession {
  private func insertNamed(_ entity: some NamedEntity) throws {
    try refuseExisting(entity.id)
    try refuseTakenName(of: entity)
    try store(entity)
  }

  private func updateNamed<Stored: NamedEntity>(_ entity: Stored) throws -> Stored {
    try checkRevision(of: entity)
    try refuseTakenName(of: entity)
    return try overwriteRaised(entity)
  }

  private func updateRevised<Stored: RevisedEntity>(_ entity: Stored) throws -> Stored {
    try checkRevision(of: entity)
    return try overwriteRaised(entity)
  }

  private func overwriteRaised<Stored: RevisedEntity>(_ entity: Stored) throws -> Stored {
    var raised = entity
    raised.revision += 1
    try overwrite(raised)
    return raised
  }

  private func remove<Stored: IdentifiedEntity>(_ id: Identifier<Stored>) throws {
    let changed = try execute("DELETE FROM \(Stored.mapping.table) WHERE id = ?", id.description)
    guard changed == 1 else { throw CatalogRefusal.missing(Stored.noun, id) }
  }

  private func refuseExisting<Stored: IdentifiedEntity>(_ id: Identifier<Stored>) throws {
    guard try !hasRow(id) else { throw CatalogRefusal.exists("\(Stored.noun) \(id)") }
  }

  private func requireRow<Stored: IdentifiedEntity>(_ id: Identifier<Stored>) throws {
    guard try hasRow(id) else { throw CatalogRefusal.missing(Stored.noun, id) }
  }

  private func hasRow<Stored: IdentifiedEntity>(_ id: Identifier<Stored>) throws -> Bool {
    try value(Int.self, "SELECT 1 FROM \(Stored.mapping.table) WHERE id = ?", id.description) != nil
  }

  /// Throws if another row has the name.
  private func refuseTakenName<Stored: NamedEntity>(of entity: Stored) throws {
    let (table, name) = (Stored.mapping.table, entity.name)
    guard let text = try value(String.self, "SELECT id FROM \(table) WHERE name = ?", name.text) else { return }
    guard let holder = Identifier<Stored>(text) else { throw DomainError.damagedRow(table, text, "its id is no ULID") }
    guard holder == entity.id else { throw CatalogRefusal.nameTaken(name, Stored.noun, by: holder) }
  }

  private func checkRevision<Stored: RevisedEntity>(of entity: Stored) throws {
    let (id, given) = (entity.id, entity.revision)
    let stored = try value(
      Int.self, "SELECT revision FROM \(Stored.mapping.table) WHERE id = ?", id.description)
    guard let stored else { throw CatalogRefusal.missing(Stored.noun, id) }
    guard stored == given else { throw CatalogRefusal.stale(Stored.noun, id, stored: stored, given: given) }
  }
}
