import Foundation
import Model

extension InMemoryTransaction: CatalogWriting {
  func insert(_ image: Image) throws {
    try refuseDuplicate(state.images[image.id], "image", image.id)
    try refuseTaken(image.name, "image", by: try self.image(named: image.name)?.id, allowing: nil)
    state.images[image.id] = image
  }

  func update(_ image: Image) throws -> Image {
    try checkRevision("image", image.id, stored: state.images[image.id]?.revision, given: image.revision)
    try refuseTaken(image.name, "image", by: try self.image(named: image.name)?.id, allowing: image.id)
    var raised = image
    raised.revision += 1
    state.images[image.id] = raised
    return raised
  }

  func delete(_ image: ImageID) throws {
    guard state.images.removeValue(forKey: image) != nil else { throw CatalogRefusal.missing("image", image) }
  }

  func insert(_ repository: Repository) throws {
    try refuseDuplicate(state.repositories[repository.id], "repository", repository.id)
    let holder = try self.repository(named: repository.name)?.id
    try refuseTaken(repository.name, "repository", by: holder, allowing: nil)
    state.repositories[repository.id] = repository
  }

  func update(_ repository: Repository) throws -> Repository {
    let stored = state.repositories[repository.id]?.revision
    try checkRevision("repository", repository.id, stored: stored, given: repository.revision)
    let holder = try self.repository(named: repository.name)?.id
    try refuseTaken(repository.name, "repository", by: holder, allowing: repository.id)
    var raised = repository
    raised.revision += 1
    state.repositories[repository.id] = raised
    return raised
  }

  func delete(_ repository: RepositoryID) throws {
    guard state.repositories.removeValue(forKey: repository) != nil else {
      throw CatalogRefusal.missing("repository", repository)
    }
    state.backups = state.backups.filter { $0.value.repository != repository }
    state.chains = state.chains.filter { $0.value.repository != repository }
  }

  func insert(_ chain: Chain) throws {
    try refuseDuplicate(state.chains[chain.id], "chain", chain.id)
    guard state.repositories[chain.repository] != nil else {
      throw CatalogRefusal.missing("repository", chain.repository)
    }
    state.chains[chain.id] = chain
  }

  func setImageName(_ name: ResourceName, onChainsOf image: ImageID) throws {
    for (id, chain) in state.chains where chain.image == image { state.chains[id]?.imageName = name }
  }

  func delete(_ chain: ChainID) throws {
    guard state.chains[chain] != nil else { throw CatalogRefusal.missing("chain", chain) }
    guard !state.backups.values.contains(where: { $0.chain == chain }) else {
      throw CatalogRefusal.chainNotEmpty(chain)
    }
    state.chains[chain] = nil
  }

  func insert(_ backup: Backup) throws {
    try refuseDuplicate(state.backups[backup.id], "backup", backup.id)
    guard state.repositories[backup.repository] != nil else {
      throw CatalogRefusal.missing("repository", backup.repository)
    }
    guard state.chains[backup.chain] != nil else { throw CatalogRefusal.missing("chain", backup.chain) }
    state.backups[backup.id] = backup
  }

  func update(_ backup: Backup) throws -> Backup {
    try checkRevision("backup", backup.id, stored: state.backups[backup.id]?.revision, given: backup.revision)
    var raised = backup
    raised.revision += 1
    state.backups[backup.id] = raised
    return raised
  }

  func delete(_ backup: BackupID) throws {
    guard state.backups.removeValue(forKey: backup) != nil else { throw CatalogRefusal.missing("backup", backup) }
  }

  func insert(_ export: Export) throws {
    try refuseDuplicate(state.exports[export.id], "export", export.id)
    try refuseTaken(export.name, "export", by: try self.export(named: export.name)?.id, allowing: nil)
    state.exports[export.id] = export
  }

  func update(_ export: Export) throws -> Export {
    try checkRevision("export", export.id, stored: state.exports[export.id]?.revision, given: export.revision)
    try refuseTaken(export.name, "export", by: try self.export(named: export.name)?.id, allowing: export.id)
    var raised = export
    raised.revision += 1
    state.exports[export.id] = raised
    return raised
  }

  func insert(_ fleecing: Fleecing) throws {
    try refuseDuplicate(state.fleecings[fleecing.id], "fleecing", fleecing.id)
    state.fleecings[fleecing.id] = fleecing
  }

  func update(_ fleecing: Fleecing) throws -> Fleecing {
    try checkRevision(
      "fleecing", fleecing.id, stored: state.fleecings[fleecing.id]?.revision, given: fleecing.revision)
    var raised = fleecing
    raised.revision += 1
    state.fleecings[fleecing.id] = raised
    return raised
  }

  func delete(_ fleecing: FleecingID) throws {
    guard state.fleecings.removeValue(forKey: fleecing) != nil else {
      throw CatalogRefusal.missing("fleecing", fleecing)
    }
  }

  func insert(_ checkpoint: FleecingCheckpoint) throws {
    guard state.fleecingCheckpoints[checkpoint.image]?[checkpoint.id] == nil else {
      throw CatalogRefusal.exists("checkpoint \(checkpoint.id) of image \(checkpoint.image)")
    }
    state.fleecingCheckpoints[checkpoint.image, default: [:]][checkpoint.id] = checkpoint
  }

  func delete(_ checkpoint: FleecingCheckpoint) throws {
    state.fleecingCheckpoints[checkpoint.image]?[checkpoint.id] = nil
  }

  func delete(_ export: ExportID) throws {
    guard state.exports.removeValue(forKey: export) != nil else { throw CatalogRefusal.missing("export", export) }
  }

  func insert(_ job: Job) throws {
    try refuseDuplicate(state.jobs[job.id], "job", job.id)
    state.jobs[job.id] = job
  }

  func update(_ job: Job) throws -> Job {
    try checkRevision("job", job.id, stored: state.jobs[job.id]?.revision, given: job.revision)
    var raised = job
    raised.revision += 1
    state.jobs[job.id] = raised
    return raised
  }

  func setProgress(_ progress: JobProgress, of job: JobID) throws {
    guard state.jobs[job] != nil else { throw CatalogRefusal.missing("job", job) }
    state.jobs[job]?.progress = progress
  }

  func append(_ entry: JobLogEntry, to job: JobID) throws {
    guard state.jobs[job] != nil else { throw CatalogRefusal.missing("job", job) }
    guard state.logs[job]?[entry.sequence] == nil else {
      throw CatalogRefusal.exists("entry \(entry.sequence) of the log of job \(job)")
    }
    state.logs[job, default: [:]][entry.sequence] = entry
  }

  func append(_ event: Event) throws -> Event {
    var stored = event
    state.lastEventID += 1
    stored.id = state.lastEventID
    state.events.append(stored)
    return stored
  }

  func pruneEvents(keeping count: Int) throws {
    state.events.removeFirst(max(0, state.events.count - max(0, count)))
  }

  func insert(_ record: IdempotencyRecord) throws {
    guard state.idempotencyRecords[record.key] == nil else {
      throw CatalogRefusal.keyAnswered(record.key)
    }
    state.idempotencyRecords[record.key] = record
  }

  func deleteIdempotencyRecords(before date: Date) throws {
    state.idempotencyRecords = state.idempotencyRecords.filter { $0.value.createdAt >= date }
  }

  // MARK: Rules of the store

  private func refuseDuplicate<Entity>(_ stored: Entity?, _ kind: String, _ id: Identifier<Entity>) throws {
    guard stored == nil else { throw CatalogRefusal.exists("\(kind) \(id)") }
  }

  private func refuseTaken<Entity>(
    _ name: ResourceName, _ kind: String, by holder: Identifier<Entity>?, allowing own: Identifier<Entity>?
  ) throws {
    guard let holder, holder != own else { return }
    throw CatalogRefusal.nameTaken(name, kind, by: holder)
  }

  private func checkRevision<Entity>(
    _ kind: String, _ id: Identifier<Entity>, stored: Int?, given: Int
  ) throws {
    guard let stored else { throw CatalogRefusal.missing(kind, id) }
    guard stored == given else { throw CatalogRefusal.stale(kind, id, stored: stored, given: given) }
  }
}
