import Model

/// A job that restores backups of one moment, one after the other. After one that failed the others have their turn:
/// each is a restore of its own, with an outcome of its own.
struct RestoreGroupWork: JobWork {
  let group: ULID
  let restores: [GroupRestore]
  let isPausable = true
  let findingOfSuccess: RepositoryFinding? = .reached

  private typealias Part = JobResult.RestoredGroup.Part

  private var members: [RestoreWork] {
    restores.map { RestoreWork(backup: $0.backup, target: $0.target, mode: $0.mode) }
  }

  var images: [ImageID] { members.flatMap(\.images) }
  var overwrittenImages: [ImageID] { images }

  /// A group's backups are all in one.
  func repository(in catalog: any CatalogReading) throws -> RepositoryID? {
    try members.lazy.compactMap { try $0.repository(in: catalog) }.first
  }

  func claims(in catalog: any CatalogReading) throws -> [JobClaim] {
    var known: Set<JobClaim> = []
    return try members.flatMap { try $0.claims(in: catalog) }.filter { known.insert($0).inserted }
  }

  func aftermath(of job: Job, in catalog: any CatalogReading) throws -> Aftermath? {
    Aftermath(try members.compactMap { try $0.aftermath(of: job, in: catalog) })
  }

  func run(_ context: JobContext) async -> JobEnd {
    let members = members
    let sizes = try? context.transactions.read { catalog in
      try members.map { try catalog.backup($0.backup)?.virtualSize ?? 0 }
    }
    context.live.expect(legs: sizes ?? [])
    var (parts, ends) = ([Part](), [JobEnd]())
    for (restore, member) in zip(restores, members) {
      let end = await run(member, context)
      parts.append(part(of: restore, end, context))
      context.live.finishLeg(whole: parts.last?.outcome == .complete)
      ends.append(end)
    }
    let result = JobResult.RestoredGroup(group: group, restores: parts)
    let changes = ends.map(\.changes)
    return JobEnd(verdict(parts, ends), result: .restoredGroup(result)) { transaction in
      for change in changes { try change(transaction) }
    }
  }

  /// What its success means for its image's row commits at once, or else with the end of the job.
  private func run(_ member: RestoreWork, _ context: JobContext) async -> JobEnd {
    do {
      try await context.live.checkpoint()
    } catch {
      return JobEnd(error, of: context.live)
    }
    let end = await member.run(context)
    if case .succeeded = end.verdict { try? await context.transactions.write { try end.changes($0) } }
    return end
  }

  private func part(of restore: GroupRestore, _ end: JobEnd, _ context: JobContext) -> Part {
    let stored = try? context.transactions.read { try $0.storedBackup(restore.backup) }
    let restored: JobResult.Restored? = if case .restored(let result)? = end.result { result } else { nil }
    let (outcome, problem): (JobResult.BackedUp.Outcome, ProblemDetails?) =
      switch end.verdict {
      case .succeeded: (.complete, nil)
      case .stopped(.cancelled): (.cancelled, nil)
      case .stopped(.stopping): (.interrupted, nil)
      case .failed(let problem): (.failed, problem)
      }
    if let problem { context.log(.error, "restoring backup \(restore.backup) failed: \(problem.detail)") }
    return Part(
      image: restore.image, imageName: stored?.imageName.text ?? restore.image.description, backup: restore.backup,
      outcome: outcome, restored: restored, error: problem)
  }

  private func verdict(_ parts: [Part], _ ends: [JobEnd]) -> JobEnd.Verdict {
    for end in ends { if case .stopped = end.verdict { return end.verdict } }
    let failures = parts.filter { $0.error != nil }
    guard let first = failures.first, var problem = first.error else { return .succeeded }
    if parts.count > 1 {
      problem.detail = "\(failures.count) of \(parts.count) images failed; '\(first.imageName)': \(problem.detail)"
    }
    return .failed(problem)
  }
}
