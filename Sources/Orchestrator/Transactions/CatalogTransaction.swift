import Foundation
import Model

/// What a use case reads to decide: one unchanging view of the catalog, the time it decides at, and who asks.
struct CatalogView {
  let catalog: any CatalogReading
  let now: Date
  let caller: Principal
}

/// One transaction on the catalog, with the time that it happens at and who asks for it: the one way to change anything.
///
/// T1. An entity changes only by ``insert(_:job:)``, ``update(_:job:)`` and ``delete(_:job:)``, which append the event
///     that tells of it: no change commits without its event.
/// T2. All that is stored in one transaction has the time ``now``.
struct CatalogTransaction {
  private let writing: any CatalogWriting
  let now: Date
  let caller: Principal

  init(_ catalog: any CatalogWriting, now: Date, caller: Principal) {
    writing = catalog
    self.now = now
    self.caller = caller
  }

  /// As it is after what this transaction did so far.
  var catalog: any CatalogReading { writing }

  var view: CatalogView { CatalogView(catalog: writing, now: now, caller: caller) }
}

// MARK: Entities, each with its event

extension CatalogTransaction {
  @discardableResult
  func insert(_ image: Image, job: JobID? = nil) throws -> Image {
    try writing.insert(image)
    try append(.imageCreated, image.id, EventPayload(image), job: job)
    return image
  }

  /// With its revision raised.
  @discardableResult
  func update(_ image: Image, job: JobID? = nil) throws -> Image {
    let stored = try writing.update(image)
    try append(.imageChanged, stored.id, EventPayload(stored), job: job)
    return stored
  }

  func delete(_ image: Image, job: JobID? = nil) throws {
    for checkpoint in try writing.fleecingCheckpoints(of: image.id) { try writing.delete(checkpoint) }
    try writing.delete(image.id)
    try append(.imageDeleted, image.id, EventPayload(image), job: job)
  }

  @discardableResult
  func insert(_ repository: Repository, job: JobID? = nil) throws -> Repository {
    try writing.insert(repository)
    try append(.repositoryCreated, repository.id, EventPayload(repository), job: job)
    return repository
  }

  @discardableResult
  func update(_ repository: Repository, job: JobID? = nil) throws -> Repository {
    let stored = try writing.update(repository)
    try append(.repositoryChanged, stored.id, EventPayload(stored), job: job)
    return stored
  }

  func delete(_ repository: Repository, job: JobID? = nil) throws {
    try writing.delete(repository.id)
    try append(.repositoryDeleted, repository.id, EventPayload(repository), job: job)
  }

  @discardableResult
  func insert(_ backup: Backup, job: JobID? = nil) throws -> Backup {
    try writing.insert(backup)
    try append(.backupCreated, backup.id, EventPayload(backup), job: job ?? backup.job)
    return backup
  }

  @discardableResult
  func update(_ backup: Backup, job: JobID? = nil) throws -> Backup {
    let stored = try writing.update(backup)
    try append(.backupChanged, stored.id, EventPayload(stored), job: job ?? backup.job)
    return stored
  }

  func delete(_ backup: Backup, job: JobID? = nil) throws {
    try writing.delete(backup.id)
    try append(.backupDeleted, backup.id, EventPayload(backup), job: job ?? backup.job)
  }

  @discardableResult
  func insert(_ export: Export, job: JobID? = nil) throws -> Export {
    try writing.insert(export)
    try append(.exportCreated, export.id, EventPayload(export), job: job)
    return export
  }

  @discardableResult
  func update(_ export: Export, job: JobID? = nil) throws -> Export {
    let stored = try writing.update(export)
    try append(.exportChanged, stored.id, EventPayload(stored), job: job)
    return stored
  }

  func delete(_ export: Export, job: JobID? = nil) throws {
    try writing.delete(export.id)
    try append(.exportDeleted, export.id, EventPayload(export), job: job)
  }

  @discardableResult
  func insert(_ fleecing: Fleecing, job: JobID? = nil) throws -> Fleecing {
    try writing.insert(fleecing)
    try append(.fleecingCreated, fleecing.id, EventPayload(fleecing), job: job)
    return fleecing
  }

  @discardableResult
  func update(_ fleecing: Fleecing, job: JobID? = nil) throws -> Fleecing {
    let stored = try writing.update(fleecing)
    try append(.fleecingChanged, stored.id, EventPayload(stored), job: job)
    return stored
  }

  func delete(_ fleecing: Fleecing, job: JobID? = nil) throws {
    try writing.delete(fleecing.id)
    try append(.fleecingDeleted, fleecing.id, EventPayload(fleecing), job: job)
  }

  @discardableResult
  func insert(_ job: Job) throws -> Job {
    try writing.insert(job)
    try append(.jobCreated, job.id, EventPayload(job), job: job.id)
    return job
  }

  @discardableResult
  func update(_ job: Job) throws -> Job {
    let stored = try writing.update(job)
    try append(.jobChanged, stored.id, EventPayload(stored), job: stored.id)
    return stored
  }

  /// An attached image that is written no more: its row stays as it is.
  func announce(_ failure: ImageFailure, of image: Image) throws {
    try append(.imageChanged, image.id, EventPayload(image, failure: failure), job: nil)
  }

  /// A bitmap that was changed, made or removed: the image has it, no row.
  func announce(_ kind: Event.Kind, _ bitmap: BitmapName, _ state: BitmapRecord.State?, of image: ImageID) throws {
    try append(kind, image, EventPayload(bitmap, state, of: image), job: nil)
  }

  private func append<Entity>(
    _ kind: Event.Kind, _ id: Identifier<Entity>, _ payload: EventPayload, job: JobID?
  ) throws {
    try writing.append(Event(at: now, kind: kind, subject: id.ulid, job: job, payload: payload))
  }
}

// MARK: What has no event of its own

extension CatalogTransaction {
  /// A chain shows with its backups.
  func insert(_ chain: Chain) throws { try writing.insert(chain) }
  func delete(_ chain: ChainID) throws { try writing.delete(chain) }

  func setImageName(_ name: ResourceName, onChainsOf image: ImageID) throws {
    try writing.setImageName(name, onChainsOf: image)
  }

  /// A checkpoint of a fleecing shows with its tracker. Of each tracker's only the newest are kept.
  func insert(_ checkpoint: FleecingCheckpoint) throws {
    let others = try catalog.fleecingCheckpoints(of: checkpoint.image).filter { $0.tracker == checkpoint.tracker }
    for old in others.dropLast(FleecingCheckpoint.keptCount - 1) { try writing.delete(old) }
    try writing.insert(checkpoint)
  }

  /// Progress is told without being stored first.
  func setProgress(_ progress: JobProgress, of job: JobID) throws { try writing.setProgress(progress, of: job) }
  func append(_ entry: JobLogEntry, to job: JobID) throws { try writing.append(entry, to: job) }

  func pruneEvents(keeping count: Int) throws { try writing.pruneEvents(keeping: count) }

  /// Keeps the answer of a request, and drops those that were kept for `lifetime` seconds.
  func insert(_ record: IdempotencyRecord, lifetime: Double) throws {
    try writing.deleteIdempotencyRecords(before: now - lifetime)
    try writing.insert(record)
  }
}
