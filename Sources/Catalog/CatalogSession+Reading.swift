import GRDB
import Model

extension CatalogSession: CatalogReading {
  package func image(_ id: ImageID) throws -> Image? {
    try one(ImageRow.self, where: Condition("id", id.description))
  }

  package func image(named name: ResourceName) throws -> Image? {
    try one(ImageRow.self, where: Condition("name", name.text))
  }

  package func images(_ page: PageRequest) throws -> Page<Image> {
    try self.page(ImageRow.self, .images, page, id: \.id)
  }

  package func repository(_ id: RepositoryID) throws -> Repository? {
    try one(RepositoryRow.self, where: Condition("id", id.description))
  }

  package func repository(named name: ResourceName) throws -> Repository? {
    try one(RepositoryRow.self, where: Condition("name", name.text))
  }

  package func repositories(_ page: PageRequest) throws -> Page<Repository> {
    try self.page(RepositoryRow.self, .repositories, page, id: \.id)
  }

  package func chain(_ id: ChainID) throws -> Chain? {
    try one(ChainRow.self, where: Condition("id", id.description))
  }

  package func chains(image: ImageID?, repository: RepositoryID?, _ page: PageRequest) throws -> Page<Chain> {
    let conditions = [
      Condition("image", ifGiven: image?.description), Condition("repository", ifGiven: repository?.description),
    ]
    return try self.page(ChainRow.self, .chains, where: conditions, page, id: \.id)
  }

  package func backup(_ id: BackupID) throws -> Backup? {
    try one(BackupRow.self, where: Condition("id", id.description))
  }

  package func backups(_ filter: BackupFilter, _ page: PageRequest) throws -> Page<Backup> {
    let conditions = [
      Condition("image", ifGiven: filter.image?.description),
      Condition("repository", ifGiven: filter.repository?.description),
      Condition("chain", ifGiven: filter.chain?.description), Condition("state", ifGiven: filter.state?.rawValue),
    ]
    return try self.page(BackupRow.self, .backups, where: conditions, page, id: \.id)
  }

  package func dependents(of backup: BackupID) throws -> [BackupID] {
    let statement = try database.cachedStatement(sql: "SELECT id FROM backups WHERE parent = ? ORDER BY id")
    return try String.fetchAll(statement, arguments: [backup.description]).map { text in
      try RowCheck(table: BackupRow.table, key: text).id(text)
    }
  }

  package func export(_ id: ExportID) throws -> Export? {
    try one(ExportRow.self, where: Condition("id", id.description))
  }

  package func export(named name: ResourceName) throws -> Export? {
    try one(ExportRow.self, where: Condition("name", name.text))
  }

  package func exports(_ filter: ExportFilter, _ page: PageRequest) throws -> Page<Export> {
    let conditions = [
      Condition("image", ifGiven: filter.image?.description), Condition("backup", ifGiven: filter.backup?.description),
    ]
    return try self.page(ExportRow.self, .exports, where: conditions, page, id: \.id)
  }

  package func job(_ id: JobID) throws -> Job? {
    try one(JobRow.self, where: Condition("id", id.description))
  }

  /// One look-up for each state, each by its index, merged: jobs that are queued or running are few among many that
  /// ended, and one statement over several states would walk them all.
  package func jobs(_ filter: JobFilter, _ page: PageRequest) throws -> Page<Job> {
    let after = try page.id(Job.self, in: .jobs)?.description ?? ""
    let kind = Condition("kind", ifGiven: filter.kind?.rawValue)
    let states: [Condition?] = filter.states.map { $0.map { Condition("state", $0.rawValue) } } ?? [nil]
    let found = try states.flatMap { state in
      try list(JobRow.self, where: [state, kind].compactMap(\.self), after: after, limit: page.boundedLimit + 1)
    }
    return Page(found.sorted { $0.id < $1.id }, .jobs, page) { $0.id }
  }

  package func jobLog(_ job: JobID, _ page: PageRequest) throws -> Page<JobLogEntry> {
    let entries = try list(
      JobLogRow.self, where: [Condition("job", job.description)], after: try page.number(in: .jobLog) ?? Int.min,
      key: "sequence", limit: page.boundedLimit + 1)
    return Page(entries, .jobLog, page) { $0.sequence }
  }

  package func events(after id: Int64, job: JobID?, limit: Int) throws -> [Event] {
    let conditions = [Condition("job", ifGiven: job?.description)].compactMap(\.self)
    return try list(EventRow.self, where: conditions, after: id, limit: max(limit, 0))
  }

  package func eventSpan() throws -> ClosedRange<Int64>? {
    guard let first = try value(Int64.self, "SELECT min(id) FROM events"),
      let last = try value(Int64.self, "SELECT max(id) FROM events")
    else { return nil }
    return first...last
  }

  package func idempotencyRecord(_ key: IdempotencyKey) throws -> IdempotencyRecord? {
    try one(
      IdempotencyRow.self, where: Condition("who", key.who), Condition("route", key.route), Condition("key", key.key))
  }
}
