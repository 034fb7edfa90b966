import Foundation
import Locks
import Model

/// A backup job: its images at one moment, then one stored after the other, each with an outcome of its own.
///
/// B0. Until the moment, an image that can't be held fails the others with it, unless the request says `continue`. After
///     it each stands alone. What was begun is stored, or abandoned before the job ends.
/// B1. A backup is called complete only after the engine gave its receipt: its manifest is durable by then.
/// B2. Each outcome commits when it is known, the last one with the end of the job, which takes up any that the
///     catalog didn't take before.
/// B3. A backup that fails because what it builds on is damaged marks that as corrupt: the next one is built on something
///     else.
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

  /// An image with its rows, as far as they could be read, and what came of it.
  private struct Member {
    var image: ImageID
    var imageName: String
    var backup: BackupID
    var order: BackupOrder?
    var end: Outcome.End?

    var outcome: Outcome? {
      end.map { Outcome(image: image, imageName: imageName, backup: backup, end: $0) }
    }
  }

  func run() async -> JobEnd {
    var members: [Member] = []
    for (image, backup) in zip(request.images, request.backups) { members.append(await member(image, backup)) }
    await begin(&members)
    var outcomes: [Outcome] = []
    for var member in members {
      if member.end == nil { member.end = await store(member) }
      guard let outcome = member.outcome else { continue }
      context.live.finishLeg(whole: outcome.isComplete)
      outcomes.append(outcome)
      if outcomes.count < members.count { await commitEarly(outcome) }
    }
    // Those that were stopped before their turn.
    await context.engine.abandon(request.backups)
    return end(outcomes)
  }

  /// The order of one image; or why there is none.
  private func member(_ image: ImageID, _ backup: BackupID) async -> Member {
    var member = Member(image: image, imageName: image.description, backup: backup)
    do {
      var (image, row, repository) = try context.transactions.read { catalog in
        (try catalog.find(image), try catalog.find(backup), try catalog.find(request.repository))
      }
      member.imageName = image.name.text
      try context.transactions.read { try $0.requireBackable(image) }
      let damage = try await damage(of: image)
      if let damage { row = try await noteMixture(damage, of: row) }
      let unusable = try context.transactions.read {
        try $0.unusableParents(of: image.id, in: repository.id)
      }
      context.log(.info, "backing up image '\(image.name)' as \(backup) into repository '\(repository.name)'")
      member.order = BackupOrder(
        backup: backup, newChain: row.kind.beginsChain ? row.chain : ChainID(ULID(at: context.transactions.time.now())),
        group: request.group, kind: request.kind,
        image: ImageRecord(image), isExclusive: image.isExclusive, repository: repository.location,
        tracker: request.tracker,
        compression: request.compression,
        unusableParents: unusable, chainLength: context.limits.chainLength, mixture: damage?.why,
        groupImages: request.images, onTempFull: request.onTempFull ?? .breakBackup,
        guestLatencyBudget: request.guestLatencyBudget)
    } catch {
      member.end = failure(error, of: member)
    }
    return member
  }

  /// Has them all at one moment. Those that aren't have their end afterwards.
  private func begin(_ members: inout [Member]) async {
    let continues = request.onFailure == .continue
    if let failed = members.first(where: { $0.end != nil }), !continues {
      for index in members.indices where members[index].end == nil { members[index].end = Self.lost(with: failed) }
    }
    let orders = members.filter { $0.end == nil }.compactMap(\.order)
    guard !orders.isEmpty else { return }
    do {
      if let reason = context.live.stopReason { throw Stopped(reason: reason) }
      let beginnings = try await context.engine.begin(
        GroupOrder(orders, continuesAfterFailure: continues), control: context.live)
      for (order, beginning) in zip(orders, beginnings) {
        guard let index = members.firstIndex(where: { $0.backup == order.backup }) else { continue }
        switch beginning {
        case .begun(let plan):
          context.log(.info, "'\(members[index].imageName)' is held for a \(plan.kind.rawValue) backup: \(plan.reason)")
        case .failed(let problem):
          context.log(.error, "backing up image '\(members[index].imageName)' failed: \(problem.detail)")
          members[index].end = .failed(problem)
        }
      }
      try await note(beginnings, of: orders)
    } catch {
      for index in members.indices where members[index].end == nil {
        members[index].end = failure(error, of: members[index])
      }
    }
  }

  /// The rows say what was decided before the first byte is stored.
  private func note(_ beginnings: [BackupBeginning], of orders: [BackupOrder]) async throws {
    let job = context.job.id
    try await context.transactions.persistently {
      try await context.transactions.write { transaction in
        for (order, beginning) in zip(orders, beginnings) {
          guard case .begun(let plan) = beginning else { continue }
          try transaction.decide(plan, for: order.backup, job: job)
        }
      }
    }
  }

  private func store(_ member: Member) async -> Outcome.End {
    if let reason = context.live.stopReason { return .stopped(reason) }
    do {
      let receipt = try await context.engine.store(member.backup, control: context.live)
      context.log(
        .info, "backup \(member.backup) is complete: \(receipt.dirtyBytes) bytes copied, \(receipt.storedSize) stored")
      return .complete(receipt)
    } catch {
      if (error as? DomainError)?.code == .backupCorrupt { await judgeParents(of: member.backup) }
      return failure(error, of: member)
    }
  }

  private struct Stopped: Error { var reason: LiveJob.StopReason }

  private func failure(_ error: any Error, of member: Member) -> Outcome.End {
    if let stopped = error as? Stopped { return .stopped(stopped.reason) }
    if error is CancellationError, let reason = context.live.stopReason { return .stopped(reason) }
    let problem = ProblemDetails(error)
    context.log(.error, "backing up image '\(member.imageName)' failed: \(problem.detail)")
    return .failed(problem)
  }

  private static func lost(with failed: Member) -> Outcome.End {
    guard case .failed(let problem)? = failed.end else { return .stopped(.cancelled) }
    return .failed(
      ProblemDetails(
        DomainError(
          .pointInTimeLost,
          "image '\(failed.imageName)' couldn't be held at the moment of its group: \(problem.detail)",
          remedy: "mend that, or ask with \"onFailure\": \"continue\" to back up the others without it")))
  }

  // MARK: Mixtures

  /// What damaged the image, or one that it stands on, whichever path leads to that.
  private func damage(of image: Image) async throws -> Image.Damage? {
    if let damage = image.damage { return damage }
    let damaged = try context.transactions.read { catalog in
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
    try? await BackgroundTasks(context.transactions.time).begin(
      waitingUntil: context.transactions.time.instant + context.limits.lookTurn
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
    return try await context.transactions.persistently {
      try await context.transactions.write { transaction in
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
    try? await context.transactions.write { transaction in try Self.apply(outcome, of: id, in: transaction) }
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
      // What it builds on may have been found damaged while it was stored.
      if let damage = try transaction.catalog.damage(below: backup) {
        (backup.state, backup.failure) = (.corrupt, damage)
      }
      try note(receipt, of: outcome.image, job: job, in: transaction)
    case .failed(let problem): backup.fail(problem.detail, at: transaction.now)
    case .stopped(.cancelled): backup.fail("the job was cancelled", at: transaction.now)
    case .stopped(.stopping): backup.fail("the server stopped while the backup was made", at: transaction.now)
    }
    try transaction.update(backup, job: job)
  }

  /// A successful backup proves that the image is available; take over its size.
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
    (checkpoint, granularity) = (receipt.checkpoint, receipt.granularity)
    guestImpact = receipt.guestImpact
  }

  mutating func fail(_ why: String, at now: Date) {
    state = .failed
    failure = why
    finishedAt = finishedAt ?? now
  }
}
