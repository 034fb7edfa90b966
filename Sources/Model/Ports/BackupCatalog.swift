import Foundation

/// The port to the catalog: every entity, in transactions.
///
/// What a `write` body did commits as a whole when it returns, and not at all when it throws.
/// A body calls nothing of the catalog but what it is given. Broken rules of the store are thrown as `DomainError`,
/// see ``CatalogRefusal``: `notFound` for a row that is changed, deleted or referred to but isn't there,
/// `preconditionFailed` for one that is inserted but is there already. A store that fails is `storageFull` or `ioError`.
package protocol BackupCatalog: Sendable {
  /// Runs `body` on one unchanging view of the catalog. Blocks the thread: by key or for one page only.
  func read<Result>(_ body: (any CatalogReading) throws -> Result) throws -> Result

  /// Runs `body` alone, as one transaction. It is done also if the task is cancelled meanwhile. `notReady` if its turn
  /// doesn't come in time, or another program holds the store: see ``CatalogDeadline``.
  @discardableResult func write<Result: Sendable>(
    _ body: @Sendable @escaping (any CatalogWriting) throws -> Result
  ) async throws -> Result

  /// Lets no further call in, waits for those under way, and closes the files: blocks for as long as the disk does.
  /// Calls that come afterwards are refused with `stopping`; a second `close` does nothing.
  func close() throws

  /// The calls under way, in words: what ``close()`` waits for.
  var unfinished: [String] { get }
}

/// A page of a list: in order of id (newest last), or of name where a name is the key.
package struct Page<Item: Sendable>: Sendable {
  package var items: [Item]
  /// Give it back as `after` for what follows; nil at the end.
  package var next: String?

  package init(items: [Item], next: String?) {
    self.items = items
    self.next = next
  }

  package func map<Other>(_ transform: (Item) throws -> Other) rethrows -> Page<Other> {
    Page<Other>(items: try items.map(transform), next: next)
  }

  /// The same for all items at once, which `transform` keeps in their order.
  package func mapItems<Other>(_ transform: ([Item]) throws -> [Other]) rethrows -> Page<Other> {
    Page<Other>(items: try transform(items), next: next)
  }
}

/// Which page is wanted: at most `limit` items (brought into 1…``maximumLimit``) behind the cursor `after`. A cursor
/// that no page of this list gave is `invalidParameter`.
package struct PageRequest: Hashable, Sendable {
  package var after: String?
  package var limit: Int

  package init(after: String? = nil, limit: Int = 100) {
    self.after = after
    self.limit = limit
  }
}

/// Nil means any.
package struct BackupFilter: Hashable, Sendable {
  package var image: ImageID?
  package var repository: RepositoryID?
  package var chain: ChainID?
  package var state: Backup.State?

  package init(
    image: ImageID? = nil, repository: RepositoryID? = nil, chain: ChainID? = nil, state: Backup.State? = nil
  ) {
    self.image = image
    self.repository = repository
    self.chain = chain
    self.state = state
  }
}

/// Nil means any.
package struct ExportFilter: Hashable, Sendable {
  package var image: ImageID?
  package var backup: BackupID?

  package init(image: ImageID? = nil, backup: BackupID? = nil) {
    self.image = image
    self.backup = backup
  }
}

/// Nil means any.
package struct FleecingFilter: Hashable, Sendable {
  package var states: Set<Fleecing.State>?

  package init(states: Set<Fleecing.State>? = nil) { self.states = states }
}

/// Nil means any.
package struct JobFilter: Hashable, Sendable {
  package var states: Set<JobState>?
  package var kind: JobKind?

  package init(states: Set<JobState>? = nil, kind: JobKind? = nil) {
    self.states = states
    self.kind = kind
  }
}

package protocol CatalogReading {
  func image(_ id: ImageID) throws -> Image?
  func image(named name: ResourceName) throws -> Image?
  func images(_ page: PageRequest) throws -> Page<Image>
  /// Those of the images that there are; one question for all of them.
  func images(_ ids: Set<ImageID>) throws -> [ImageID: Image]

  func repository(_ id: RepositoryID) throws -> Repository?
  func repository(named name: ResourceName) throws -> Repository?
  func repositories(_ page: PageRequest) throws -> Page<Repository>

  /// Those of the repositories that there are; one question for all of them.
  func repositories(_ ids: Set<RepositoryID>) throws -> [RepositoryID: Repository]

  func chain(_ id: ChainID) throws -> Chain?
  /// Those of the chains that there are; one question for all of them.
  func chains(_ ids: Set<ChainID>) throws -> [ChainID: Chain]
  func chains(image: ImageID?, repository: RepositoryID?, _ page: PageRequest) throws -> Page<Chain>

  func backup(_ id: BackupID) throws -> Backup?
  func backups(_ filter: BackupFilter, _ page: PageRequest) throws -> Page<Backup>
  /// The newest complete backup of the image in the tracker's line in the repository.
  func newestBackup(of image: ImageID, in repository: RepositoryID, tracker: TrackerName) throws -> Backup?
  /// The newest complete backup of each line of the image, in order of id.
  func newestBackups(of image: ImageID) throws -> [Backup]
  /// The image's backups that have a checkpoint, in order of id.
  func checkpoints(of image: ImageID, _ page: PageRequest) throws -> Page<Backup>
  /// The backups of one moment, in order of id.
  func backups(ofGroup group: ULID, _ page: PageRequest) throws -> Page<Backup>
  /// All backups of each of the chains, in order of id; one question for all of them.
  func backups(of chains: Set<ChainID>) throws -> [ChainID: [Backup]]
  /// The backups whose parent each of these is, in order of id; one question for all of them.
  func dependents(of backups: Set<BackupID>) throws -> [BackupID: [BackupID]]

  func export(_ id: ExportID) throws -> Export?
  func export(named name: ResourceName) throws -> Export?
  func exports(_ filter: ExportFilter, _ page: PageRequest) throws -> Page<Export>
  /// Those of the backups that are exported; one question for all of them.
  func exported(among backups: Set<BackupID>) throws -> Set<BackupID>

  func fleecing(_ id: FleecingID) throws -> Fleecing?
  func fleecings(_ filter: FleecingFilter, _ page: PageRequest) throws -> Page<Fleecing>
  /// Those of the image, in order of id: a few for each tracker.
  func fleecingCheckpoints(of image: ImageID) throws -> [FleecingCheckpoint]

  func job(_ id: JobID) throws -> Job?
  func jobs(_ filter: JobFilter, _ page: PageRequest) throws -> Page<Job>
  func jobLog(_ job: JobID, _ page: PageRequest) throws -> Page<JobLogEntry>

  /// Events with an id above `id` in order, of one job if given.
  func events(after id: Int64, job: JobID?, limit: Int) throws -> [Event]
  /// The ids of the oldest and the newest event that are kept; nil if there are none.
  func eventSpan() throws -> ClosedRange<Int64>?

  func idempotencyRecord(_ key: IdempotencyKey) throws -> IdempotencyRecord?
}

extension CatalogReading {
  /// Backups whose parent is this one, in order of id.
  package func dependents(of backup: BackupID) throws -> [BackupID] { try dependents(of: [backup])[backup] ?? [] }
}

package protocol CatalogWriting: CatalogReading {
  /// Throws `nameTaken` if another image has the name.
  func insert(_ image: Image) throws
  /// Stores the changed entity with its revision raised by one, and returns it so.
  /// Throws `preconditionFailed` if the stored revision isn't the given one's.
  @discardableResult func update(_ image: Image) throws -> Image
  /// Removes the row. Its chains and backups stay, and with them the image's last known name.
  func delete(_ image: ImageID) throws

  func insert(_ repository: Repository) throws
  @discardableResult func update(_ repository: Repository) throws -> Repository
  /// Removes the row, and with it those of its chains and backups: the repository still holds them all.
  func delete(_ repository: RepositoryID) throws

  /// Its repository must be there; its image needn't.
  func insert(_ chain: Chain) throws
  /// Sets the last known name on all chains of the image.
  func setImageName(_ name: ResourceName, onChainsOf image: ImageID) throws
  /// Throws `backupHasDependents` if it still has backups.
  func delete(_ chain: ChainID) throws

  /// Its repository and its chain must be there; its image, parent and job needn't.
  func insert(_ backup: Backup) throws
  @discardableResult func update(_ backup: Backup) throws -> Backup
  func delete(_ backup: BackupID) throws

  /// Throws `nameTaken` if another export has the name. Its image or backup needn't be there.
  func insert(_ export: Export) throws
  @discardableResult func update(_ export: Export) throws -> Export
  func delete(_ export: ExportID) throws

  /// Its images needn't be there.
  func insert(_ fleecing: Fleecing) throws
  @discardableResult func update(_ fleecing: Fleecing) throws -> Fleecing
  func delete(_ fleecing: FleecingID) throws
  /// Its image needn't be there.
  func insert(_ checkpoint: FleecingCheckpoint) throws
  /// Does nothing if it isn't there.
  func delete(_ checkpoint: FleecingCheckpoint) throws

  func insert(_ job: Job) throws
  @discardableResult func update(_ job: Job) throws -> Job
  /// Overwrites only the progress; raises no revision.
  func setProgress(_ progress: JobProgress, of job: JobID) throws
  func append(_ entry: JobLogEntry, to job: JobID) throws

  /// Stores the event and returns it with its id.
  @discardableResult func append(_ event: Event) throws -> Event
  /// Keeps the newest `count` events.
  func pruneEvents(keeping count: Int) throws

  /// Throws `idempotencyKeyInFlight` if the key has a record already.
  func insert(_ record: IdempotencyRecord) throws
  func deleteIdempotencyRecords(before date: Date) throws
}

/// Names one guarded request: whose, on which route (method and path), under which key.
package struct IdempotencyKey: Hashable, Sendable, Codable {
  package var who: String
  package var route: String
  package var key: String

  package init(who: String, route: String, key: String) {
    self.who = who
    self.route = route
    self.key = key
  }
}

/// The answer that a guarded request got, to be given again to the same request.
package struct IdempotencyRecord: Hashable, Sendable, Codable {
  package var key: IdempotencyKey
  /// SHA-256 or better of the body as sent.
  package var bodyHash: String
  /// In the form of the API that gave it, which alone reads it.
  package var answer: String
  package var createdAt: Date

  package init(key: IdempotencyKey, bodyHash: String, answer: String, createdAt: Date) {
    self.key = key
    self.bodyHash = bodyHash
    self.answer = answer
    self.createdAt = createdAt
  }
}
