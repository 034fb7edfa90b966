import Model
import ModelTesting
import Orchestrator
import Testing

/// Restoring the images of one moment.
@Suite struct GroupRestoreTests {
  private static let names: [ResourceName] = ["a", "b", "c"]

  /// Three images, backed up at one moment; `b` fails if it is to.
  private static func backUp(bFails: Bool = false) async throws -> (ServiceBench, [Backup]) {
    let bench = try await ServiceBench()
    try await bench.repository()
    for name in names { try await bench.image(name) }
    if bFails {
      bench.engine.script { $0.begin = { if $0.image.name == "b" { throw DomainError(.imageLocked, "locked") } } }
    }
    let draft = BackupDraft(images: names.map { .name($0) }, repository: .name("local"), onFailure: .continue)
    let job = try await bench.end(of: bench.service.createBackup(draft).done())
    return (bench, try job.backups.map { try bench.service.backup($0).backup })
  }

  private static func toFiles(_ names: [ResourceName] = names) -> GroupRestoreDraft {
    GroupRestoreDraft(
      names.map {
        GroupRestoreDraft.Member(image: .name($0), target: .newFile(path: "/images/back-\($0)", format: .raw))
      })
  }

  private static func overThemselves(_ names: [ResourceName] = names, confirm: String?) -> GroupRestoreDraft {
    GroupRestoreDraft(
      names.map { GroupRestoreDraft.Member(image: .name($0), target: .image(.name($0), confirm: nil)) },
      confirm: confirm)
  }

  private static func parts(of job: Job) throws -> [JobResult.RestoredGroup.Part] {
    guard case .restoredGroup(let result) = job.result else {
      throw ExpectationFailure("expected a group's result, got \(String(describing: job.result))")
    }
    return result.restores
  }

  private static func restored(_ bench: ServiceBench) -> [BackupID] {
    bench.engine.orders.compactMap { if case .restore(let order, _) = $0 { order.backup.backup } else { nil } }
  }

  @Test func eachImageGoesToItsOwnTarget() async throws {
    let (bench, backups) = try await Self.backUp()
    let job = try await bench.end(of: bench.service.restoreGroup(backups[0].group, Self.toFiles()).done())
    #expect(job.state == .succeeded && job.request.kind == .restoreGroup)
    #expect(job.progress.done == 3 << 20 && job.progress.total == 3 << 20)
    #expect(job.links.backups == backups.map(\.id) && job.links.images == backups.map(\.image))
    let parts = try Self.parts(of: job)
    #expect(parts.map(\.backup) == backups.map(\.id) && parts.map(\.imageName) == ["a", "b", "c"])
    #expect(parts.allSatisfy { $0.outcome == .complete && $0.error == nil })
    #expect(parts[1].restored?.target == .file(path: "/images/back-b", format: .raw))
    #expect(Self.restored(bench) == backups.map(\.id))
  }

  @Test func overwritingIsConfirmedByTheGroup() async throws {
    let (bench, backups) = try await Self.backUp()
    let group = backups[0].group
    for confirm in [nil, "a", ULID().description] {
      await expectRefusal(.confirmationRequired) {
        try await bench.service.restoreGroup(group, Self.overThemselves(confirm: confirm))
      }
    }
    let draft = Self.overThemselves(confirm: group.description)
    let job = try await bench.end(of: bench.service.restoreGroup(group, draft).done())
    #expect(job.state == .succeeded)
    for name in Self.names { #expect(try bench.service.image(.name(name)).damage == nil) }
  }

  @Test func planTellsAllAndWritesNothing() async throws {
    let (bench, backups) = try await Self.backUp()
    let draft = Self.overThemselves(confirm: nil)
    let plan = try await bench.service.restoreGroup(backups[0].group, draft, ChangeConditions(dryRun: true)).planned()
    #expect(plan.action == "restore-group" && plan.steps.count == 6)
    for name in Self.names { #expect(plan.warnings.contains { $0.contains("image '\(name)' holds now is lost") }) }
    #expect(plan.resource == .groupRestore(of: backups[0].group, backups.map(\.id)))
    #expect(Self.restored(bench) == [])
    let last = backups[2].id
    bench.engine.script { script in
      script.restorePath = {
        $0.backup == last
          ? RestorePath(backups: [], findings: ["no"], findingCount: 1) : RestorePath(backups: [$0.backup])
      }
    }
    await expectRefusal(.backupCorrupt) {
      try await bench.service.restoreGroup(backups[0].group, draft, ChangeConditions(dryRun: true))
    }
  }

  @Test func incompleteGroupGivesThoseThatItHas() async throws {
    let (bench, backups) = try await Self.backUp(bFails: true)
    let group = backups[0].group
    await expectRefusal(.backupNotComplete) { try await bench.service.restoreGroup(group, Self.toFiles()) }
    let job = try await bench.end(of: bench.service.restoreGroup(group, Self.toFiles(["a", "c"])).done())
    #expect(job.state == .succeeded)
    #expect(Self.restored(bench) == [backups[0].id, backups[2].id])
  }

  @Test func oneThatFailsLeavesTheOthersTheirTurn() async throws {
    let (bench, backups) = try await Self.backUp()
    let first = backups[0].id
    bench.engine.script { script in
      script.restore = { order in
        if order.backup.backup == first { throw DomainError(.ioError, "no") }
        return RestoreReport(virtualSize: 1 << 20, writtenBytes: 1 << 16)
      }
    }
    let group = backups[0].group
    let draft = Self.overThemselves(confirm: group.description)
    let job = try await bench.end(of: bench.service.restoreGroup(group, draft).done())
    #expect(job.state == .failed && job.error?.code == .ioError)
    #expect(job.error?.detail.contains("1 of 3 images failed; 'a'") == true)
    #expect(try Self.parts(of: job).map(\.outcome) == [.failed, .complete, .complete])
    #expect(
      try Self.names.map { try bench.service.image(.name($0)).damage == nil } == [false, true, true],
      "what was begun and hasn't succeeded is damaged")
  }

  @Test func cancelledInTheMiddleTellsWhatItLeaves() async throws {
    let (bench, backups) = try await Self.backUp()
    let gate = Gate()
    let second = backups[1].id
    bench.engine.script { script in
      script.hold(at: gate) { if case .restore(let order, _) = $0 { order.backup.backup == second } else { false } }
    }
    let group = backups[0].group
    let draft = Self.overThemselves(confirm: group.description)
    let job = try await bench.service.restoreGroup(group, draft).done()
    try await gate.reached()
    // All are claimed before the first is written.
    let backup = try await bench.backUp("c")
    _ = try await bench.job(backup.id) { $0.waitingFor?.contains(job.id.description) == true }
    #expect(try bench.service.image(.name("a")).damage == nil, "the first is whole")
    await expectRefusal(.imageInUse) { try await bench.service.clearDamage(of: .name("b"), confirm: "b") }
    _ = try await bench.service.cancelJob(job.id)
    let ended = try await bench.end(of: job)
    gate.open()
    #expect(ended.state == .cancelled)
    #expect(ended.error?.detail.contains("image 'b' now holds a mixture") == true, "\(ended.error?.detail ?? "")")
    #expect(ended.error?.detail.contains("image 'a'") == false)
    #expect(try Self.parts(of: ended).map(\.outcome) == [.complete, .cancelled, .cancelled])
    #expect(try await bench.end(of: backup).state == .succeeded)
  }

  @Test func whatDoesNotFitIsRefused() async throws {
    let (bench, backups) = try await Self.backUp()
    try await bench.image("other")
    let group = backups[0].group
    await expectRefusal(.notFound) { try await bench.service.restoreGroup(ULID(), Self.toFiles()) }
    await expectRefusal(.notFound) { try await bench.service.restoreGroup(group, Self.toFiles(["ghost"])) }
    let stranger = await expectRefusal(.invalidField) {
      try await bench.service.restoreGroup(group, Self.toFiles(["a", "other"]))
    }
    #expect(stranger?.faults.first?.part == .field(.targets.item(1)))
    await expectRefusal(.invalidField) { try await bench.service.restoreGroup(group, Self.toFiles(["a", "a"])) }
    var same = Self.toFiles(["a", "b"])
    same.members[1].target = .newFile(path: "/images/./back-a", format: .qcow2)
    await expectRefusal(.invalidField) { try await bench.service.restoreGroup(group, same) }
    var over = Self.overThemselves(["a", "b"], confirm: group.description)
    over.members[1].target = .image(.name("a"), confirm: nil)
    await expectRefusal(.invalidField) { try await bench.service.restoreGroup(group, over) }
    #expect(Self.restored(bench) == [])
  }
}
