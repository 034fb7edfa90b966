import Foundation
import Model
import ModelTesting
import Orchestrator
import Testing

@Suite struct DryRunTests {
  /// Each change as a dry run: it tells a plan, and neither the catalog nor a repository is touched.
  @Test func dryRunsTellAPlanAndWriteNothing() async throws {
    let bench = try await ServiceBench()
    let backup = try await bench.completeBackup()
    let gate = Gate()
    bench.engine.script { $0.hold(at: gate) }
    let job = try await bench.backUp("vm1")
    try await gate.reached()
    try await Task.sleep(for: .milliseconds(30))
    let service = bench.service
    let events = try bench.events()
    let orders = bench.engine.orders.filter { !Self.isRead($0) }
    bench.catalog.writeFault = FaultyCatalog.Fault(atCall: 1, fromThenOn: true)

    let image = ChangeConditions<Image>(dryRun: true)
    let draft = ImageDraft(name: "vm2", source: .file(path: "/images/b"), format: .raw)
    var plans = [
      try await service.registerImage(draft, image).planned(),
      try await service.changeImage(.name("vm1"), ImageChange(name: "x"), image).planned(),
    ]
    await expectRefusal(.imageInUse) { try await service.unregisterImage(.name("vm1"), ChangeConditions(dryRun: true)) }
    let repository = ChangeConditions<Repository>(dryRun: true)
    plans.append(
      try await service.createRepository(RepositoryDraft(name: "r", path: "/backup/r"), repository).planned())
    plans.append(try await service.renameRepository(.name("local"), to: "y", repository).planned())
    await expectRefusal(.repositoryInUse) { try await service.unregisterRepository(.name("local"), repository) }
    let conditions = ChangeConditions<Job>(dryRun: true)
    plans.append(try await service.rescanRepository(.name("local"), conditions).planned())
    plans.append(
      try await service.createBackup(
        BackupDraft(images: [.name("vm1")], repository: .name("local")), conditions
      ).planned())
    plans.append(try await service.verifyBackup(backup.id, level: .metadata, conditions).planned())
    plans.append(try await service.verifyChain(backup.chain, level: .metadata, conditions).planned())
    plans.append(
      try await service.restoreBackup(backup.id, to: .newFile(path: "/images/x", format: .raw), conditions).planned())
    let over = try await service.restoreBackup(backup.id, to: .image(.name("vm1"), confirm: "vm1"), conditions)
      .planned()
    #expect(over.warnings.contains { $0.contains("is lost") })
    let member = GroupRestoreDraft.Member(image: .name("vm1"), target: .newFile(path: "/images/x", format: .raw))
    plans.append(try await service.restoreGroup(backup.group, GroupRestoreDraft([member]), conditions).planned())
    plans.append(try await service.deleteBackup(backup.id, conditions).planned())
    plans.append(try await service.pauseJob(job.id, .standard, conditions).planned())
    plans.append(try await service.cancelJob(job.id, conditions).planned())
    #expect(plans.allSatisfy { !$0.steps.isEmpty })
    #expect(Set(plans.map(\.action)).count == plans.count)

    #expect(try bench.events() == events)
    #expect(bench.engine.orders.filter { !Self.isRead($0) } == orders)
    #expect(try service.job(job.id).state == .running)
    bench.catalog.writeFault = nil
    gate.open()
    #expect(try await bench.end(of: job).state == .succeeded)
  }

  @Test func dryRunIsRefusedWhereTheChangeWouldBe() async throws {
    let bench = try await ServiceBench()
    try await bench.image("vm1")
    await expectRefusal(.nameTaken) {
      try await bench.service.registerImage(
        ImageDraft(name: "vm1", source: .file(path: "/images/b"), format: .raw), ChangeConditions(dryRun: true))
    }
    await expectRefusal(.notFound) {
      try await bench.service.createBackup(
        BackupDraft(images: [.name("vm1")], repository: .name("nowhere")), ChangeConditions(dryRun: true))
    }
    await expectRefusal(.preconditionFailed) {
      try await bench.service.unregisterImage(.name("vm1"), ChangeConditions(dryRun: true, expectedRevision: 9))
    }
  }

  @Test func planOfARestoreNamesAllThatIsReadAndChecksIt() async throws {
    let bench = try await ServiceBench()
    let backup = try await bench.completeBackup()
    let target = RestoreDraft.newFile(path: "/images/x", format: .raw)
    let below = (0..<250).map { _ in BackupID() }
    for (count, steps) in [(0, 2), (99, 101), (100, 102), (250, 102)] {
      let path = below.prefix(count) + [backup.id]
      bench.engine.script { $0.restorePath = { _ in RestorePath(backups: Array(path)) } }
      let plan = try await bench.service.restoreBackup(backup.id, to: target, ChangeConditions(dryRun: true)).planned()
      #expect(plan.steps.count == steps)
      #expect(plan.steps[0].contains(path[0].description))
      #expect(plan.steps[steps - 2] == "read backup \(backup.id) (full, sequence 0)")
      #expect(plan.steps.last?.contains("/images/x") == true)
    }
    bench.engine.script {
      $0.restorePath = {
        RestorePath(backups: [$0.backup], findings: ["0001-x.qcow2 is missing", "0002-y.qcow2 too"], findingCount: 3)
      }
    }
    let refusal = await expectRefusal(.backupCorrupt) {
      try await bench.service.restoreBackup(backup.id, to: target, ChangeConditions(dryRun: true))
    }
    #expect(refusal?.detail.contains("0001-x.qcow2 is missing; 0002-y.qcow2 too; and 1 more") == true)
  }

  /// Orders that change nothing in the world.
  private static func isRead(_ order: ScriptedEngine.Order) -> Bool {
    switch order {
    case .suggestFormat, .inspect, .extents, .scan, .resolveTarget, .identities, .restorePath, .restoreChoice: true
    default: false
    }
  }
}
