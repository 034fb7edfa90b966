import Model

/// A job that verifies each stored backup of a chain, in order of sequence, so that each is judged after what it builds
/// on. Each outcome commits when it is known. What keeps one from being judged leaves the others their turn, unless the
/// repository itself can't be reached.
struct VerifyChainWork: JobWork {
  let chain: ChainID
  let level: VerifyLevel
  let isPausable = true
  let findingOfSuccess: RepositoryFinding? = .reached

  private typealias Part = JobResult.VerifiedChain.Part

  func repository(in catalog: any CatalogReading) throws -> RepositoryID? { try catalog.chain(chain)?.repository }

  func claims(in catalog: any CatalogReading) throws -> [JobClaim] {
    let repository = try repository(in: catalog).map { try JobClaim.repository($0, isAlone: false, in: catalog) }
    return [.chain(chain, isAlone: false)] + (repository.map { [$0] } ?? [])
  }

  func run(_ context: JobContext) async -> JobEnd {
    let backups: [Backup]
    do {
      backups = try context.transactions.read { try $0.backupsInOrder(of: chain) }.filter(\.isStored)
    } catch {
      return JobEnd(error, of: context.live)
    }
    // There may be more of them than when it was asked for.
    context.live.expect(legs: backups.map(\.virtualSize))
    var parts: [Part] = []
    var findingsLeft = context.limits.findingsPerResult
    for backup in backups {
      let part = await verify(backup, context, findingsLeft: findingsLeft)
      findingsLeft -= part.findings.count
      context.live.finishLeg(whole: part.outcome == .sound || part.outcome == .damaged)
      parts.append(part)
      if part.outcome.endsTheJob || part.error.map({ RepositoryFinding($0.code) == .unreachable }) == true { break }
    }
    if let last = parts.last {
      parts += backups.dropFirst(parts.count).map {
        Part(backup: $0.id, sequence: $0.sequence, outcome: last.outcome, error: last.error)
      }
    }
    let result = JobResult.VerifiedChain(chain: chain, level: level, backups: parts)
    return JobEnd(verdict(parts, context), result: .verifiedChain(result))
  }

  private func verify(_ backup: Backup, _ context: JobContext, findingsLeft: Int) async -> Part {
    var part = Part(backup: backup.id, sequence: backup.sequence, outcome: .sound)
    let job = context.job.id
    do {
      try await context.live.checkpoint()
      let verification = try await Verification.of(backup.id, level, isInChain: true, context)
      part.outcome = verification.isSound ? .sound : .damaged
      part.findings = Array(verification.report.findings.prefix(findingsLeft))
      part.findingCount = verification.report.findingCount
      part.verifiedBytes = verification.report.verifiedBytes
      try await context.transactions.persistently {
        try await context.transactions.write { try $0.record(verification, job: job) }
      }
    } catch {
      if error is CancellationError, let reason = context.live.stopReason {
        part.outcome = reason == .cancelled ? .cancelled : .interrupted
      } else {
        let problem = ProblemDetails(error)
        context.log(.error, "verifying backup \(backup.id) failed: \(problem.detail)")
        (part.outcome, part.error) = (.failed, problem)
      }
    }
    return part
  }

  /// What is damaged weighs more than what couldn't be told.
  private func verdict(_ parts: [Part], _ context: JobContext) -> JobEnd.Verdict {
    if let reason = context.live.stopReason, parts.last?.outcome.endsTheJob == true { return .stopped(reason) }
    let damaged = parts.filter { $0.outcome == .damaged }
    if let first = damaged.first {
      let why = first.findings.first.map { ": \($0)" } ?? ""
      return .failed(
        ProblemDetails(
          DomainError(
            .backupCorrupt,
            "\(damaged.count) of \(parts.count) backups of chain \(chain) are damaged, the first of them "
              + "\(first.backup)\(why)", remedy: DomainError.remedyOfDamage)))
    }
    let failures = parts.compactMap(\.error)
    guard var problem = failures.first else { return .succeeded }
    problem.detail = "\(failures.count) of \(parts.count) backups couldn't be verified: \(problem.detail)"
    return .failed(problem)
  }
}

extension JobResult.VerifiedChain.Outcome {
  fileprivate var endsTheJob: Bool { self == .cancelled || self == .interrupted }
}
