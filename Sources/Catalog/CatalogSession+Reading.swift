import GRDB
import Model

extension CatalogSession: CatalogReading {
  package func image(_ id: ImageID) throws -> Image? {
    try one(Image.self, where: Condition("id", id.description))
  }

  package func image(named name: ResourceName) throws -> Image? {
    try one(Image.self, where: Condition("name", name.text))
  }

  package func images(_ page: PageRequest) throws -> Page<Image> {
    try self.page(Image.self, .images, page)
  }

  package func images(_ ids: Set<ImageID>) throws -> [ImageID: Image] {
    let found = try all(Image.self, where: "id", in: ids.map(\.description))
    return Dictionary(uniqueKeysWithValues: found.map { ($0.id, $0) })
  }

  package func repository(_ id: RepositoryID) throws -> Repository? {
    try one(Repository.self, where: Condition("id", id.description))
  }

  package func repository(named name: ResourceName) throws -> Repository? {
    try one(Repository.self, where: Condition("name", name.text))
  }

  package func repositories(_ page: PageRequest) throws -> Page<Repository> {
    try self.page(Repository.self, .repositories, page)
  }

  package func repositories(_ ids: Set<RepositoryID>) throws -> [RepositoryID: Repository] {
    let found = try all(Repository.self, where: "id", in: ids.map(\.description))
    return Dictionary(uniqueKeysWithValues: found.map { ($0.id, $0) })
  }

  package func chain(_ id: ChainID) throws -> Chain? {
    try one(Chain.self, where: Condition("id", id.description))
  }

  package func chains(_ ids: Set<ChainID>) throws -> [ChainID: Chain] {
    let found = try all(Chain.self, where: "id", in: ids.map(\.description))
    return Dictionary(uniqueKeysWithValues: found.map { ($0.id, $0) })
  }

  package func chains(image: ImageID?, repository: RepositoryID?, _ page: PageRequest) throws -> Page<Chain> {
    let conditions = [
      Condition("image", ifGiven: image?.description), Condition("repository", ifGiven: repository?.description),
    ]
    let index = image != nil ? "chains_by_image" : repository != nil ? "chains_by_repository" : nil
    return try self.page(Chain.self, .chains, where: Filter(conditions, index: index), page)
  }

  package func backup(_ id: BackupID) throws -> Backup? {
    try one(Backup.self, where: Condition("id", id.description))
  }

  package func backups(_ filter: BackupFilter, _ page: PageRequest) throws -> Page<Backup> {
    let conditions = [
      Condition("image", ifGiven: filter.image?.description),
      Condition("repository", ifGiven: filter.repository?.description),
      Condition("chain", ifGiven: filter.chain?.description), Condition("state", ifGiven: filter.state?.rawValue),
    ]
    return try self.page(Backup.self, .backups, where: Filter(conditions, index: filter.index), page)
  }

  package func newestBackup(
    of image: ImageID, in repository: RepositoryID, tracker: TrackerName
  ) throws -> Backup? {
    let statement = try database.cachedStatement(
      sql: """
        \(Self.select(Backup.self)) INDEXED BY backups_by_tracker
        WHERE image = ? AND repository = ? AND tracker = ? AND state = 'complete' ORDER BY id DESC LIMIT 1
        """)
    let found: [Backup] = try entities(of: statement, [image.description, repository.description, tracker.text])
    return found.first
  }

  package func newestBackups(of image: ImageID) throws -> [Backup] {
    let statement = try database.cachedStatement(
      sql: """
        \(Self.select(Backup.self)) WHERE id IN (
          SELECT max(id) FROM backups INDEXED BY backups_by_tracker
          WHERE image = ? AND tracker IS NOT NULL AND state = 'complete' GROUP BY repository, tracker
        ) ORDER BY id
        """)
    return try entities(of: statement, [image.description])
  }

  package func checkpoints(of image: ImageID, _ page: PageRequest) throws -> Page<Backup> {
    let filter = Filter(
      [Condition("image", image.description)], present: "checkpoint", index: "backups_by_checkpoint")
    return try self.page(Backup.self, .backups, where: filter, page)
  }

  package func backups(ofGroup group: ULID, _ page: PageRequest) throws -> Page<Backup> {
    let filter = Filter([Condition("group_id", group.description)], index: "backups_by_group")
    return try self.page(Backup.self, .backups, where: filter, page)
  }

  package func backups(of chains: Set<ChainID>) throws -> [ChainID: [Backup]] {
    let found = try all(Backup.self, where: "chain", in: chains.map(\.description))
    return Dictionary(grouping: found.sorted { $0.id < $1.id }, by: \.chain)
  }

  package func dependents(of backups: Set<BackupID>) throws -> [BackupID: [BackupID]] {
    let statement = try database.cachedStatement(
      sql: "SELECT id, parent FROM backups WHERE parent IN (SELECT value FROM json_each(?))")
    var dependents: [BackupID: [BackupID]] = [:]
    let rows = try Row.fetchCursor(statement, arguments: [Self.json(backups.map(\.description))])
    while let row = try rows.next() {
      var reader = RowReader(row, of: Backup.mapping.table)
      let (id, parent) = (try BackupID(from: &reader), try BackupID(from: &reader))
      dependents[parent, default: []].append(id)
    }
    return dependents.mapValues { $0.sorted() }
  }

  package func export(_ id: ExportID) throws -> Export? {
    try one(Export.self, where: Condition("id", id.description))
  }

  package func export(named name: ResourceName) throws -> Export? {
    try one(Export.self, where: Condition("name", name.text))
  }

  package func exports(_ filter: ExportFilter, _ page: PageRequest) throws -> Page<Export> {
    let conditions = [
      Condition("image", ifGiven: filter.image?.description), Condition("backup", ifGiven: filter.backup?.description),
    ]
    return try self.page(Export.self, .exports, where: Filter(conditions), page)
  }

  package func exported(among backups: Set<BackupID>) throws -> Set<BackupID> {
    let statement = try database.cachedStatement(
      sql: "SELECT backup FROM exports WHERE backup IN (SELECT value FROM json_each(?))")
    let rows = try Row.fetchCursor(statement, arguments: [Self.json(backups.map(\.description))])
    var exported: Set<BackupID> = []
    while let row = try rows.next() {
      var reader = RowReader(row, of: Export.mapping.table)
      exported.insert(try BackupID(from: &reader))
    }
    return exported
  }

  package func fleecing(_ id: FleecingID) throws -> Fleecing? {
    try one(Fleecing.self, where: Condition("id", id.description))
  }

  /// One look-up for each state, as for jobs: those that are live are few among many that ended.
  package func fleecings(_ filter: FleecingFilter, _ page: PageRequest) throws -> Page<Fleecing> {
    let after = try page.id(Fleecing.self, in: .fleecings)?.description ?? ""
    let states: [Condition?] = filter.states.map { $0.map { Condition("state", $0.rawValue) } } ?? [nil]
    let found = try states.flatMap { state in
      try list(Fleecing.self, where: Filter([state]), after: after, limit: page.boundedLimit + 1)
    }
    return Page(found.sorted { $0.id < $1.id }, .fleecings, page) { $0.id }
  }

  package func fleecingCheckpoints(of image: ImageID) throws -> [FleecingCheckpoint] {
    try list(
      FleecingCheckpoint.self, where: Filter([Condition("image", image.description)]), after: "", limit: Int(Int32.max))
  }

  package func job(_ id: JobID) throws -> Job? {
    try one(Job.self, where: Condition("id", id.description))
  }

  /// One look-up for each state, each by its index, merged: jobs that are queued or running are few among many that
  /// ended, and one statement over several states would walk them all.
  package func jobs(_ filter: JobFilter, _ page: PageRequest) throws -> Page<Job> {
    let after = try page.id(Job.self, in: .jobs)?.description ?? ""
    let kind = Condition("kind", ifGiven: filter.kind?.rawValue)
    let states: [Condition?] = filter.states.map { $0.map { Condition("state", $0.rawValue) } } ?? [nil]
    let found = try states.flatMap { state in
      try list(Job.self, where: Filter([kind, state]), after: after, limit: page.boundedLimit + 1)
    }
    return Page(found.sorted { $0.id < $1.id }, .jobs, page) { $0.id }
  }

  package func jobLog(_ job: JobID, _ page: PageRequest) throws -> Page<JobLogEntry> {
    let entries = try list(
      JobLogEntry.self, where: Filter([Condition("job", job.description)]),
      after: try page.number(in: .jobLog) ?? Int.min,
      key: "sequence", limit: page.boundedLimit + 1)
    return Page(entries, .jobLog, page) { $0.sequence }
  }

  package func events(after id: Int64, job: JobID?, limit: Int) throws -> [Event] {
    let filter = Filter([Condition("job", ifGiven: job?.description)])
    return try list(Event.self, where: filter, after: id, limit: max(limit, 0))
  }

  package func eventSpan() throws -> ClosedRange<Int64>? {
    guard let first = try value(Int64.self, "SELECT min(id) FROM events"),
      let last = try value(Int64.self, "SELECT max(id) FROM events")
    else { return nil }
    return first...last
  }

  package func idempotencyRecord(_ key: IdempotencyKey) throws -> IdempotencyRecord? {
    try one(
      IdempotencyRecord.self, where: Condition("who", key.who), Condition("route", key.route), Condition("key", key.key)
    )
  }
}

extension BackupFilter {
  /// The index that serves these filters in order of id: a chain has few backups, an image more, a repository many,
  /// and a state may have nearly all.
  fileprivate var index: String? {
    switch (chain, image, repository, state) {
    case (_?, _, _, _): "backups_by_chain"
    case (nil, _?, _, nil): "backups_by_image"
    case (nil, _?, _, _?): "backups_by_image_and_state"
    case (nil, nil, _?, nil): "backups_by_repository"
    case (nil, nil, _?, _?): "backups_by_repository_and_state"
    case (nil, nil, nil, _?): "backups_by_state"
    case (nil, nil, nil, nil): nil
    }
  }
}
