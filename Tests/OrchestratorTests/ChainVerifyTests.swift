import Model
import ModelTesting
import Orchestrator
import Testing

/// Verifying chains, and what damage means for what builds on it.
@Suite struct ChainVerifyTests {
  /// A full, two increments over it, and a differential over the full.
  private static func chain(_ bench: ServiceBench) async throws -> [Backup] {
    let full = try await bench.completeBackup()
    let chain = try bench.service.chain(full.chain).chain.chain
    var backups = [full]
    for (sequence, parent) in [(1, 0), (2, 1), (3, 0)] {
      backups.append(Backup.sample(in: chain, sequence: sequence, parent: backups[parent].id))
    }
    let increments = backups.dropFirst()
    try await bench.stored.write { catalog in for backup in increments { try catalog.insert(backup) } }
    return backups
  }

  private static func states(_ backups: [Backup], _ bench: ServiceBench) throws -> [Backup.State] {
    try backups.map { try bench.service.backup($0.id).backup.state }
  }

  /// Has the engine find these damaged.
  private static func damage(_ damaged: [Backup], _ bench: ServiceBench) {
    let damaged = Set(damaged.map(\.id))
    bench.engine.script { script in
      script.verify = { order in
        damaged.contains(order.backup.backup)
          ? VerifyReport(findings: ["grain 9 differs"], findingCount: 1, verifiedBytes: 9)
          : VerifyReport(findings: [], findingCount: 0, verifiedBytes: 1 << 20)
      }
    }
  }

  private static func verify(
    _ backup: Backup, _ bench: ServiceBench, _ level: VerifyLevel = .checksum
  ) async throws -> JobState {
    try await bench.end(of: bench.service.verifyBackup(backup.id, level: level).done()).state
  }

  private static func verifyChain(
    _ backups: [Backup], _ bench: ServiceBench, _ level: VerifyLevel = .checksum
  ) async throws -> (job: Job, parts: [JobResult.VerifiedChain.Part]) {
    let job = try await bench.end(of: bench.service.verifyChain(backups[0].chain, level: level).done())
    guard case .verifiedChain(let result) = job.result else {
      throw ExpectationFailure("expected a chain's result, got \(String(describing: job.result))")
    }
    #expect(result.chain == backups[0].chain && result.level == level)
    #expect(result.backups.map(\.backup) == backups.map(\.id) && result.backups.map(\.sequence) == [0, 1, 2, 3])
    return (job, result.backups)
  }

  @Test func soundChainIsVerifiedInOrderOfSequence() async throws {
    let bench = try await ServiceBench()
    let backups = try await Self.chain(bench)
    let (job, parts) = try await Self.verifyChain(backups, bench, .metadata)
    #expect(job.state == .succeeded && parts.allSatisfy { $0.outcome == .sound && $0.error == nil })
    #expect(job.progress.done == 4 << 20 && job.progress.total == 4 << 20)
    #expect(job.request.kind == .verifyChain && job.links.chains == [backups[0].chain])
    let points = try bench.service.chain(backups[0].chain)
    #expect(points.points.map(\.id) == backups.map(\.id) && !points.isTruncated)
    #expect(points.points.allSatisfy { $0.verifyLevel == .metadata && $0.verifiedAt != nil })
  }

  @Test func damageGoesUpToWhatBuildsOnItAndNoFurther() async throws {
    let bench = try await ServiceBench()
    let backups = try await Self.chain(bench)
    Self.damage([backups[1]], bench)
    let (job, parts) = try await Self.verifyChain(backups, bench)
    #expect(job.state == .failed && job.error?.code == .backupCorrupt)
    #expect(job.error?.detail.contains(backups[1].id.description) == true)
    #expect(parts.map(\.outcome) == [.sound, .damaged, .damaged, .sound])
    #expect(parts[1].findings == ["grain 9 differs"])
    let why = "it builds on backup \(backups[1].id), which is damaged"
    #expect(parts[2].findings == [why])
    #expect(try Self.states(backups, bench) == [.complete, .corrupt, .corrupt, .complete])
    #expect(try bench.service.backup(backups[2].id).backup.failure == why)
    await expectRefusal(.backupCorrupt) {
      try await bench.service.restoreBackup(backups[2].id, to: .newFile(path: "/images/x", format: .raw))
    }
  }

  @Test func oneDamagedBackupMarksAllAboveItWithEvents() async throws {
    let bench = try await ServiceBench()
    let backups = try await Self.chain(bench)
    Self.damage([backups[0]], bench)
    let before = try bench.events().count
    #expect(try await Self.verify(backups[0], bench) == .failed)
    #expect(try Self.states(backups, bench) == [.corrupt, .corrupt, .corrupt, .corrupt])
    #expect(
      try bench.service.backup(backups[2].id).backup.failure
        == "it builds on backup \(backups[1].id), which is damaged")
    let changed = try bench.events().dropFirst(before).filter { $0.kind == .backupChanged }.map(\.subject)
    #expect(Set(changed) == Set(backups.map(\.id.ulid)) && changed.count == 4)
  }

  @Test func whatReadersOfAnExportMeetMarksWhatIsWrongAndAllAboveIt() async throws {
    let bench = try await ServiceBench()
    let backups = try await Self.chain(bench)
    let before = try bench.events().count
    let detail = "0001.qcow2: the guest's bytes [0, 65536): doesn't match its hash"
    for _ in 0..<2 {
      bench.engine.meet(BackupDamage(backup: backups[1].id, detail: detail))
      try await eventually("they are marked") {
        try Self.states(backups, bench) == [.complete, .corrupt, .corrupt, .complete]
      }
    }
    let marked = try bench.service.backup(backups[1].id).backup
    #expect(marked.failure == detail && marked.verifiedAt == nil)
    let changed = try bench.events().dropFirst(before).filter { $0.kind == .backupChanged }
    #expect(changed.map(\.subject) == [backups[1], backups[2]].map(\.id.ulid), "each once")
    #expect(changed.allSatisfy { $0.payload.state == "corrupt" })
    // One that is gone, or that isn't known, is nobody's.
    bench.engine.meet(BackupDamage(backup: BackupID(), detail: detail))
    Self.damage([], bench)
    let (job, _) = try await Self.verifyChain(backups, bench)
    #expect(job.state == .succeeded)
    #expect(try Self.states(backups, bench) == [.complete, .complete, .complete, .complete])
  }

  @Test func eachIsClearedByItsOwnProofFromTheFullUp() async throws {
    let bench = try await ServiceBench()
    let backups = try await Self.chain(bench)
    Self.damage([backups[0]], bench)
    _ = try await Self.verify(backups[0], bench)
    Self.damage([], bench)
    // Whatever its own files hold, what it builds on is damaged.
    #expect(try await Self.verify(backups[1], bench) == .failed)
    #expect(try await Self.verify(backups[0], bench, .metadata) == .succeeded)
    #expect(try Self.states(backups, bench) == [.corrupt, .corrupt, .corrupt, .corrupt])
    #expect(try await Self.verify(backups[0], bench) == .succeeded)
    #expect(try Self.states(backups, bench) == [.complete, .corrupt, .corrupt, .corrupt])
    let (job, parts) = try await Self.verifyChain(backups, bench)
    #expect(job.state == .succeeded && parts.allSatisfy { $0.outcome == .sound })
    #expect(try Self.states(backups, bench) == [.complete, .complete, .complete, .complete])
  }

  @Test func badSectorLeavesTheOthersTheirTurnAndALostRepositoryDoesNot() async throws {
    for (code, outcomes) in [
      (ProblemCode.ioError, [.sound, .failed, .sound, .sound]),
      (.repositoryUnavailable, [.sound, .failed, .failed, .failed]),
    ] as [(ProblemCode, [JobResult.VerifiedChain.Outcome])] {
      let bench = try await ServiceBench()
      let backups = try await Self.chain(bench)
      let bad = backups[1].id
      bench.engine.script { script in
        script.verify = { order in
          if order.backup.backup == bad { throw DomainError(code, "the script says so") }
          return VerifyReport(findings: [], findingCount: 0, verifiedBytes: 9)
        }
      }
      let (job, parts) = try await Self.verifyChain(backups, bench)
      #expect(job.state == .failed && job.error?.code == code)
      #expect(parts.map(\.outcome) == outcomes)
      #expect(try Self.states(backups, bench) == [.complete, .complete, .complete, .complete])
    }
  }

  @Test func chainIsPausedResumedAndCancelled() async throws {
    let bench = try await ServiceBench()
    let backups = try await Self.chain(bench)
    let gate = Gate()
    let second = backups[1].id
    bench.engine.script { script in
      script.hold(at: gate) { if case .verify(let order, _) = $0 { order.backup.backup == second } else { false } }
    }
    let job = try await bench.service.verifyChain(backups[0].chain, level: .checksum).done()
    try await gate.reached()
    #expect(try bench.service.backup(backups[0].id).backup.verifiedAt != nil, "each is told when it is known")
    _ = try await bench.service.pauseJob(job.id)
    _ = try await bench.job(job.id) { $0.state == .paused }
    _ = try await bench.service.resumeJob(job.id)
    _ = try await bench.job(job.id) { $0.state == .running }
    _ = try await bench.service.cancelJob(job.id)
    let ended = try await bench.end(of: job)
    gate.open()
    #expect(ended.state == .cancelled)
    guard case .verifiedChain(let result) = ended.result else { throw ExpectationFailure("no result") }
    #expect(result.backups.map(\.outcome) == [.sound, .cancelled, .cancelled, .cancelled])
    #expect(try Self.states(backups, bench) == [.complete, .complete, .complete, .complete])
  }

  /// Its parent was found damaged while it was stored.
  @Test func backupThatBuiltOnADamagedOneIsDamaged() async throws {
    let bench = try await ServiceBench()
    let full = try await bench.completeBackup()
    let gate = Gate()
    bench.engine.script { script in
      script.hold(at: gate) { if case .backUp = $0 { true } else { false } }
    }
    let job = try await bench.backUp("vm1", kind: .incremental)
    try await gate.reached()
    let increment = job.backups[0]
    try await bench.stored.write { catalog in
      guard var row = try catalog.backup(increment) else { return }
      row.parent = full.id
      try catalog.update(row)
    }
    Self.damage([full], bench)
    #expect(try await Self.verify(full, bench) == .failed)
    gate.open()
    _ = try await bench.end(of: job)
    let row = try bench.service.backup(increment).backup
    #expect(row.state == .corrupt && row.failure == "it builds on backup \(full.id), which is damaged")
  }

  @Test func chainThatIsNotThereOrHasNothingIsRefused() async throws {
    let bench = try await ServiceBench()
    await expectRefusal(.notFound) { try await bench.service.verifyChain(ChainID(), level: .metadata) }
    try await bench.repository()
    try await bench.image("vm1")
    bench.engine.script { $0.receipt = { _ in throw DomainError(.storageFull, "no room") } }
    let job = try await bench.end(of: bench.backUp("vm1"))
    let failed = try bench.service.backup(job.backups[0]).backup
    await expectRefusal(.backupNotComplete) { try await bench.service.verifyChain(failed.chain, level: .metadata) }
  }
}
