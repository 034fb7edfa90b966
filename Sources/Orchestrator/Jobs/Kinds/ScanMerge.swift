import Foundation
import Model

/// The way from what a repository holds to what the catalog says of it, in steps of bounded size.
///
/// S1. What the repository holds complete becomes complete in the catalog; what it doesn't hold isn't called complete
///     there. What a verification found stays.
///     A deletion that began and isn't settled is settled by what the repository holds (`Backup+Deletion.swift`).
/// S2. Backups whose job isn't ended are left to it.
/// S3. Each step may be repeated, and a merge that was cut short may be done again from the start.
struct ScanMerge: Sendable {
  struct Tally: Sendable {
    var imagesAdded = 0
    var chainsAdded = 0
    var backupsAdded = 0
    var backupsChanged = 0
    var backupsMissing = 0
    var findings: [String] = []

    mutating func add(_ other: Tally) {
      imagesAdded += other.imagesAdded
      chainsAdded += other.chainsAdded
      backupsAdded += other.backupsAdded
      backupsChanged += other.backupsChanged
      backupsMissing += other.backupsMissing
      findings += other.findings
    }
  }

  /// One transaction's part.
  struct Step: Sendable {
    fileprivate enum Part: Sendable {
      case images([ImageRecord], Circumstances)
      case chains([Chain])
      case backups([Backup])
      /// Rows that the repository doesn't bear out.
      case missing([BackupID], HeldBackups)
    }

    /// What is known of the images beside their records.
    fileprivate struct Circumstances: Sendable {
      var sizes: [ImageID: UInt64]
      /// Those that could be opened.
      var opened: Set<ImageID>
      /// The sources of all images, before the merge.
      var sources: KnownSources
    }

    fileprivate var part: Part
    fileprivate var repository: RepositoryID
    fileprivate var job: JobID?
  }

  private let repository: RepositoryID
  private let job: JobID?
  private let held: HeldBackups
  private var circumstances: Step.Circumstances
  private var images: ArraySlice<ImageRecord>
  private var chains: ArraySlice<Chain>
  private var backups: ArraySlice<Backup>
  private var missing: ArraySlice<BackupID>
  var tally: Tally

  /// - Parameters:
  ///   - inspections: of those images that could be opened.
  ///   - known: of the catalog, before the merge.
  init(
    _ scan: RepositoryScan, repository: RepositoryID, job: JobID?, inspections: [ImageID: ImageInspection],
    known: KnownRows
  ) {
    self.repository = repository
    self.job = job
    let held = HeldBackups(scan)
    self.held = held
    let newest = scan.backups.sorted { $0.pointInTime < $1.pointInTime }
    let stored = Dictionary(newest.map { ($0.image, $0.virtualSize) }) { _, last in last }
    circumstances = Step.Circumstances(
      sizes: stored.merging(inspections.mapValues(\.virtualSize)) { _, inspected in inspected },
      opened: Set(inspections.keys), sources: known.sources)
    images = scan.images[...]
    chains = scan.chains[...]
    backups = scan.backups[...]
    missing = known.backups.filter { held[$0] == nil }[...]
    tally = Tally(findings: scan.findings)
  }

  /// Images before their chains, chains before their backups.
  mutating func nextStep(upTo count: Int) -> Step? {
    if let part = Self.take(count, of: &images) {
      defer {
        for record in part { circumstances.sources.add(record.source, of: record.name) }
      }
      return step(.images(part, circumstances))
    }
    if let part = Self.take(count, of: &chains) { return step(.chains(part)) }
    if let part = Self.take(count, of: &backups) { return step(.backups(part)) }
    if let part = Self.take(count, of: &missing) { return step(.missing(part, held)) }
    return nil
  }

  private func step(_ part: Step.Part) -> Step { Step(part: part, repository: repository, job: job) }

  private static func take<Item>(_ count: Int, of items: inout ArraySlice<Item>) -> [Item]? {
    guard !items.isEmpty else { return nil }
    defer { items = items.dropFirst(count) }
    return Array(items.prefix(count))
  }
}

extension ScanMerge.Step {
  func apply(in transaction: CatalogTransaction) throws -> ScanMerge.Tally {
    var tally = ScanMerge.Tally()
    switch part {
    case .images(let records, let circumstances):
      for record in records where try transaction.catalog.image(record.id) == nil {
        let image = Image(
          id: record.id, name: try Self.freeName(record.name, in: transaction.catalog), source: record.source,
          format: record.format, virtualSize: circumstances.sizes[record.id] ?? 0,
          state: circumstances.opened.contains(record.id) ? .detached : .unavailable, labels: record.labels,
          createdAt: transaction.now)
        try transaction.insert(image, job: job)
        tally.imagesAdded += 1
        tally.findings += Self.remarks(on: image, record, circumstances.sources)
      }
    case .chains(let chains):
      for chain in chains where try transaction.catalog.chain(chain.id) == nil {
        try transaction.insert(try adopted(chain, in: transaction.catalog))
        tally.chainsAdded += 1
      }
    case .backups(let backups):
      for backup in backups { try merge(backup, in: transaction, &tally) }
    case .missing(let ids, let held):
      try failMissing(ids, held, in: transaction, &tally)
    }
    return tally
  }

  /// With the name that the image has here.
  private func adopted(_ chain: Chain, in catalog: any CatalogReading) throws -> Chain {
    var chain = chain
    chain.repository = repository
    if let image = try catalog.image(chain.image) { chain.imageName = image.name }
    return chain
  }

  private func merge(
    _ held: Backup, in transaction: CatalogTransaction, _ tally: inout ScanMerge.Tally
  ) throws {
    guard var row = try transaction.catalog.backup(held.id) else {
      var held = held
      held.repository = repository
      held.revision = 1
      try transaction.insert(held, job: job)
      tally.backupsAdded += 1
      return
    }
    if row.beforeDeletion != nil {
      row.survive(as: held)
    } else {
      guard row.state == .failed || row.state == .running, held.state == .complete,
        try !row.isBeingMade(in: transaction.catalog)
      else { return }
      row.complete(as: held)
    }
    try transaction.update(row, job: job)
    tally.backupsChanged += 1
  }

  private func failMissing(
    _ ids: [BackupID], _ held: HeldBackups, in transaction: CatalogTransaction,
    _ tally: inout ScanMerge.Tally
  ) throws {
    for id in ids {
      // What a backup became since the rows were read decides.
      guard var row = try transaction.catalog.backup(id), try !row.isBeingMade(in: transaction.catalog) else {
        continue
      }
      if row.beforeDeletion != nil {
        try transaction.settleDeletion(of: id, by: held, job: job)
        continue
      }
      guard row.state != .failed else { continue }
      row.fail(
        held.isUnreadable(id) ? "its manifest can't be read" : "it is missing from the repository", at: transaction.now)
      try transaction.update(row, job: job)
      tally.backupsMissing += 1
      if !held.isUnreadable(id) { tally.findings.append("backup \(row.id) is missing from the repository") }
    }
  }

  private static func remarks(
    on image: Image, _ record: ImageRecord, _ sources: KnownSources
  ) -> [String] {
    var remarks: [String] = []
    if image.name != record.name {
      remarks.append("image \(image.id) is registered as '\(image.name)': the name '\(record.name)' is taken")
    }
    if let other = sources.image(with: image.source) {
      remarks.append("images '\(image.name)' and '\(other)' have the same source \(image.source.place)")
    }
    return remarks
  }

  /// The name itself, or with "-recovered", "-recovered-2", … where it is taken.
  private static func freeName(
    _ name: ResourceName, in catalog: any CatalogReading
  ) throws -> ResourceName {
    var candidate = name
    var number = 1
    while try catalog.image(named: candidate) != nil {
      let suffix = number == 1 ? "-recovered" : "-recovered-\(number)"
      let stem = name.text.prefix(ResourceName.maximumLength - suffix.utf8.count)
      guard let next = ResourceName(stem + suffix) else { break }
      candidate = next
      number += 1
    }
    return candidate
  }
}

extension Backup {
  /// Takes over what the repository says of it.
  mutating func complete(as held: Backup) {
    state = .complete
    failure = nil
    pointInTime = held.pointInTime
    finishedAt = held.finishedAt
    virtualSize = held.virtualSize
    dirtyBytes = held.dirtyBytes
    storedSize = held.storedSize
    merkleRoot = held.merkleRoot
    consistency = held.consistency
    (reason, isMixture) = (held.reason, held.isMixture)
    (kind, chain, sequence, parent) = (held.kind, held.chain, held.sequence, held.parent)
    (trackingFallback, fallbackReason) = (held.trackingFallback, held.fallbackReason)
    (tracker, checkpoint, granularity) = (held.tracker, held.checkpoint, held.granularity)
    if !held.groupImages.isEmpty { groupImages = held.groupImages }
  }

  /// Whether a job that isn't ended makes it.
  func isBeingMade(in catalog: any CatalogReading) throws -> Bool {
    guard state == .running, let job, let row = try catalog.job(job) else { return false }
    return !row.state.isEnded
  }
}
