import Foundation
import Model

/// One transaction's own copy of the catalog.
final class InMemoryTransaction {
  var state: InMemoryCatalogState

  init(_ state: InMemoryCatalogState) { self.state = state }
}

extension InMemoryTransaction: CatalogReading {
  func image(_ id: ImageID) throws -> Image? { state.images[id] }

  func image(named name: ResourceName) throws -> Image? { state.images.values.first { $0.name == name } }

  func images(_ page: PageRequest) throws -> Page<Image> { try self.page(state.images, .images, page) { _ in true } }

  func images(_ ids: Set<ImageID>) throws -> [ImageID: Image] { state.images.filter { ids.contains($0.key) } }

  func repository(_ id: RepositoryID) throws -> Repository? { state.repositories[id] }

  func repository(named name: ResourceName) throws -> Repository? {
    state.repositories.values.first { $0.name == name }
  }

  func repositories(_ page: PageRequest) throws -> Page<Repository> {
    try self.page(state.repositories, .repositories, page) { _ in true }
  }

  func repositories(_ ids: Set<RepositoryID>) throws -> [RepositoryID: Repository] {
    state.repositories.filter { ids.contains($0.key) }
  }

  func chains(_ ids: Set<ChainID>) throws -> [ChainID: Chain] { state.chains.filter { ids.contains($0.key) } }

  func chain(_ id: ChainID) throws -> Chain? { state.chains[id] }

  func chains(image: ImageID?, repository: RepositoryID?, _ page: PageRequest) throws -> Page<Chain> {
    try self.page(state.chains, .chains, page) { chain in
      matches(image, chain.image) && matches(repository, chain.repository)
    }
  }

  func backup(_ id: BackupID) throws -> Backup? { state.backups[id] }

  func backups(_ filter: BackupFilter, _ page: PageRequest) throws -> Page<Backup> {
    try self.page(state.backups, .backups, page) { backup in
      matches(filter.image, backup.image) && matches(filter.repository, backup.repository)
        && matches(filter.chain, backup.chain) && matches(filter.state, backup.state)
    }
  }

  func newestBackup(of image: ImageID, in repository: RepositoryID, tracker: TrackerName) throws -> Backup? {
    try newestBackups(of: image).first { $0.repository == repository && $0.tracker == tracker }
  }

  func newestBackups(of image: ImageID) throws -> [Backup] {
    struct Line: Hashable {
      var repository: RepositoryID
      var tracker: TrackerName
    }
    var newest: [Line: Backup] = [:]
    for backup in state.backups.values where backup.image == image && backup.state == .complete {
      guard let tracker = backup.tracker else { continue }
      let line = Line(repository: backup.repository, tracker: tracker)
      if newest[line].map({ $0.id < backup.id }) ?? true { newest[line] = backup }
    }
    return newest.values.sorted { $0.id < $1.id }
  }

  func checkpoints(of image: ImageID, _ page: PageRequest) throws -> Page<Backup> {
    try self.page(state.backups, .backups, page) { $0.image == image && $0.checkpoint != nil }
  }

  func backups(ofGroup group: ULID, _ page: PageRequest) throws -> Page<Backup> {
    try self.page(state.backups, .backups, page) { $0.group == group }
  }

  func backups(of chains: Set<ChainID>) throws -> [ChainID: [Backup]] {
    let found = state.backups.values.filter { chains.contains($0.chain) }
    return Dictionary(grouping: found.sorted { $0.id < $1.id }, by: \.chain)
  }

  func dependents(of backups: Set<BackupID>) throws -> [BackupID: [BackupID]] {
    var dependents: [BackupID: [BackupID]] = [:]
    for backup in state.backups.values.sorted(by: { $0.id < $1.id }) {
      if let parent = backup.parent, backups.contains(parent) { dependents[parent, default: []].append(backup.id) }
    }
    return dependents
  }

  func exported(among backups: Set<BackupID>) throws -> Set<BackupID> {
    Set(
      state.exports.values.compactMap { export in
        if case .backup(let backup) = export.source, backups.contains(backup) { backup } else { nil }
      })
  }

  func export(_ id: ExportID) throws -> Export? { state.exports[id] }

  func export(named name: ResourceName) throws -> Export? { state.exports.values.first { $0.name == name } }

  func exports(_ filter: ExportFilter, _ page: PageRequest) throws -> Page<Export> {
    try self.page(state.exports, .exports, page) { export in
      switch export.source {
      case .image(let image): matches(filter.image, image) && filter.backup == nil
      case .backup(let backup): filter.image == nil && matches(filter.backup, backup)
      }
    }
  }

  func fleecing(_ id: FleecingID) throws -> Fleecing? { state.fleecings[id] }

  func fleecings(_ filter: FleecingFilter, _ page: PageRequest) throws -> Page<Fleecing> {
    try self.page(state.fleecings, .fleecings, page) { filter.states?.contains($0.state) ?? true }
  }

  func fleecingCheckpoints(of image: ImageID) throws -> [FleecingCheckpoint] {
    (state.fleecingCheckpoints[image] ?? [:]).values.sorted { $0.id < $1.id }
  }

  func job(_ id: JobID) throws -> Job? { state.jobs[id] }

  func jobs(_ filter: JobFilter, _ page: PageRequest) throws -> Page<Job> {
    try self.page(state.jobs, .jobs, page) { job in
      (filter.states?.contains(job.state) ?? true) && matches(filter.kind, job.request.kind)
    }
  }

  func jobLog(_ job: JobID, _ page: PageRequest) throws -> Page<JobLogEntry> {
    let after = try page.number(in: .jobLog) ?? .min
    let entries = (state.logs[job] ?? [:]).values.filter { $0.sequence > after }.sorted { $0.sequence < $1.sequence }
    return cut(entries, .jobLog, page) { $0.sequence }
  }

  func events(after id: Int64, job: JobID?, limit: Int) throws -> [Event] {
    Array(state.events.lazy.filter { $0.id > id && (job == nil || $0.job == job) }.prefix(max(limit, 0)))
  }

  func eventSpan() throws -> ClosedRange<Int64>? {
    guard let first = state.events.first, let last = state.events.last else { return nil }
    return first.id...last.id
  }

  func idempotencyRecord(_ key: IdempotencyKey) throws -> IdempotencyRecord? { state.idempotencyRecords[key] }

  private func matches<Value: Equatable>(_ wanted: Value?, _ value: Value) -> Bool {
    wanted == nil || wanted == value
  }

  private func page<Entity: Sendable>(
    _ table: [Identifier<Entity>: Entity], _ list: PagedList, _ page: PageRequest, where holds: (Entity) -> Bool
  ) throws -> Page<Entity> {
    let after = try page.id(Entity.self, in: list)
    let rows = table.filter { id, entity in (after.map { id > $0 } ?? true) && holds(entity) }
    let sorted = rows.sorted { $0.key < $1.key }
    return cut(sorted, list, page) { $0.key }.map(\.value)
  }

  private func cut<Item: Sendable>(
    _ items: [Item], _ list: PagedList, _ page: PageRequest, key: (Item) -> some CustomStringConvertible
  ) -> Page<Item> {
    let shown = Array(items.prefix(page.boundedLimit))
    guard shown.count < items.count, let last = shown.last else { return Page(items: shown, next: nil) }
    return Page(items: shown, next: PageCursor.text(list, after: key(last)))
  }
}
