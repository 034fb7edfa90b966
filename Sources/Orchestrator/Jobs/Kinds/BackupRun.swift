import Foundation
import Locks
import Model

/// A backup job: its images one after the other, each with an outcome of its own.
///
/// B1. A backup is called complete only after the engine gave its receipt: its manifest is durable by then.
/// B2. Each outcome commits when it is known, the last one with the end of the job, which takes up any that the
///     catalog didn't take before.
struct BackupRun: Sendable {
  let context: JobContext
  let request: BackupJobRequest

  private struct Outcome: Sendable {
    enum End: Sendable {
      case complete(BackupReceipt)
      case failed(ProblemDetails)
      case stopped(LiveJob.StopReason)
    }

    var image: ImageID
    var imageName: String
    var backup: BackupID
    var end: End

    var isComplete: Bool { if case .complete = end { true } else { false } }
  }

  func run() async -> JobEnd {
    var outcomes: [Outcome] = []
    for (image, backup) in zip(request.images, request.backups) {
      let outcome = await outcome(of: image, backup)
      context.live.finishLeg(whole: outcome.isComplete)
      outcomes.append(outcome)
      if outcomes.count < request.images.count { await commitEarly(outcome) }
    }
    return end(outcomes)
  }

  private func outcome(of image: ImageID, _ backup: BackupID) async -> Outcome {
    var name = image.description
    do {
      var (image, row, repository) = try context.ledger.read { catalog in
        (try catalog.find(image), try catalog.find(backup), try catalog.find(request.repository))
      }
      name = image.name.text
      try context.ledger.read { try $0.require(.rest, of: image) }
      if let reason = context.live.stopReason {
        return Outcome(image: image.id, imageName: name, backup: backup, end: .stopped(reason))
      }
      if let damage = try await damage(of: image) { row = try await noteMixture(damage, of: row) }
      context.log(.info, "backing up image '\(name)' as \(backup) into repository '\(repository.name)'")
      let order = BackupOrder(
        backup: backup, chain: row.chain, group: request.group, kind: row.kind, reason: row.reason,
        image: ImageRecord(image), repository: repository.location, compression: request.compression,
        isMixture: row.isMixture)
      let receipt = try await context.engine.backUp(order, control: context.live)
      context.log(
        .info, "backup \(backup) is complete: \(receipt.dirtyBytes) bytes copied, \(receipt.storedSize) stored")
      return Outcome(image: image.id, imageName: name, backup: backup, end: .complete(receipt))
    } catch {
      if error is CancellationError, let reason = context.live.stopReason {
        return Outcome(image: image, imageName: name, backup: backup, end: .stopped(reason))
      }
      let problem = ProblemDetails(error)
      context.log(.error, "backing up image '\(name)' failed: \(problem.detail)")
      return Outcome(image: image, imageName: name, backup: backup, end: .failed(problem))
    }
  }

  // MARK: Mixtures

  /// What damaged the image, or one that it stands on, whichever path leads to that.
  private func damage(of image: Image) async throws -> Image.Damage? {
    if let damage = image.damage { return damage }
    let damaged = try context.ledger.read { catalog in
      try allPages { try catalog.images($0) }.filter { $0.damage != nil && $0.id != image.id }
    }
    guard image.format == .qcow2, !damaged.isEmpty else { return nil }
    let bases = try await context.engine.inspect(image.location).backingChain.map { ImageSource.file(path: $0.path) }
    let identities = await identities(of: bases + damaged.map(\.source))
    let (files, places) = (
      Set(identities.prefix(bases.count).compactMap(\.self)), Set(bases.map(ComparableSource.init))
    )
    // A file whose identity can't be told is still known by its path.
    return zip(damaged, identities.dropFirst(bases.count)).first { damaged, identity in
      identity.map(files.contains) == true || places.contains(ComparableSource(damaged.source))
    }?.0.damage
  }

  /// Which files these are; nil for each if that can't be told within a look's turn: another image's storage may hang.
  private func identities(of sources: [ImageSource]) async -> [FileIdentity?] {
    let found = Lock<[FileIdentity?]>(Array(repeating: nil, count: sources.count))
    let engine = context.engine
    try? await BackgroundTasks(context.ledger.time).begin(
      waitingUntil: context.ledger.time.instant + context.limits.lookTurn
    ) {
      let identities = try await engine.identities(of: sources)
      found.withLock { $0 = identities }
    } late: { _ in
    }
    return found.withLock { $0 }
  }

  /// The backup's row with that in it.
  private func noteMixture(_ damage: Image.Damage, of backup: Backup) async throws -> Backup {
    context.log(.warning, "the backup is of a mixture: \(damage.why)")
    let job = context.job.id
    return try await context.ledger.persistently {
      try await context.ledger.write { transaction in
        var row = try transaction.catalog.find(backup.id)
        guard !row.isMixture else { return row }
        row.isMixture = true
        row.reason += "; it is of a mixture: \(damage.why)"
        row = try transaction.update(row, job: job)
        return row
      }
    }
  }

  /// What fails here is made up for at the end.
  private func commitEarly(_ outcome: Outcome) async {
    let id = context.job.id
    try? await context.ledger.write { transaction in try Self.apply(outcome, of: id, in: transaction) }
  }

  private func end(_ outcomes: [Outcome]) -> JobEnd {
    let result = JobResult.backedUp(JobResult.BackedUp(outcomes.map(Self.part)))
    let id = context.job.id
    let changes: @Sendable (CatalogTransaction) throws -> Void = { transaction in
      for outcome in outcomes { try Self.apply(outcome, of: id, in: transaction) }
    }
    return JobEnd(Self.verdict(outcomes), result: result, changes: changes)
  }

  private static func verdict(_ outcomes: [Outcome]) -> JobEnd.Verdict {
    var failures: [(name: String, problem: ProblemDetails)] = []
    for outcome in outcomes {
      switch outcome.end {
      case .complete: continue
      case .stopped(let reason): return .stopped(reason)
      case .failed(let problem): failures.append((outcome.imageName, problem))
      }
    }
    guard let first = failures.first else { return .succeeded }
    var problem = first.problem
    if outcomes.count > 1 {
      problem.detail = "\(failures.count) of \(outcomes.count) images failed; '\(first.name)': \(problem.detail)"
    }
    return .failed(problem)
  }

  private static func part(_ outcome: Outcome) -> JobResult.BackedUp.Part {
    let (end, problem): (JobResult.BackedUp.Outcome, ProblemDetails?) =
      switch outcome.end {
      case .complete: (.complete, nil)
      case .stopped(.cancelled): (.cancelled, nil)
      case .stopped(.stopping): (.interrupted, nil)
      case .failed(let problem): (.failed, problem)
      }
    return JobResult.BackedUp.Part(
      image: outcome.image, imageName: outcome.imageName, backup: outcome.backup, outcome: end, error: problem)
  }

  // MARK: Rows

  /// Only a backup that is still `running` changes, so that this may be repeated.
  private static func apply(
    _ outcome: Outcome, of job: JobID, in transaction: CatalogTransaction
  ) throws {
    guard var backup = try transaction.catalog.backup(outcome.backup), backup.state == .running else { return }
    switch outcome.end {
    case .complete(let receipt):
      backup.complete(with: receipt)
      try note(receipt, of: outcome.image, job: job, in: transaction)
    case .failed(let problem): backup.fail(problem.detail, at: transaction.now)
    case .stopped(.cancelled): backup.fail("the job was cancelled", at: transaction.now)
    case .stopped(.stopping): backup.fail("the server stopped while the backup was made", at: transaction.now)
    }
    try transaction.update(backup, job: job)
  }

  /// Who could be backed up is there, and as large as the backup.
  private static func note(
    _ receipt: BackupReceipt, of id: ImageID, job: JobID, in transaction: CatalogTransaction
  ) throws {
    guard var image = try transaction.catalog.image(id) else { return }
    let before = image
    image.virtualSize = receipt.virtualSize
    if image.state == .unavailable, image.isAtRest { image.state = .detached }
    guard image != before else { return }
    try transaction.update(image, job: job)
  }
}

extension Backup {
  mutating func complete(with receipt: BackupReceipt) {
    state = .complete
    failure = nil
    pointInTime = receipt.pointInTime
    finishedAt = receipt.finishedAt
    virtualSize = receipt.virtualSize
    dirtyBytes = receipt.dirtyBytes
    storedSize = receipt.storedSize
    merkleRoot = receipt.merkleRoot
    consistency = receipt.consistency
  }

  mutating func fail(_ why: String, at now: Date) {
    state = .failed
    failure = why
    finishedAt = finishedAt ?? now
  }
}
