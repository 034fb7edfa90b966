import Foundation
import Model
import ModelTesting
import Orchestrator
import Testing

@Suite struct ExportTests {
  @Test func exportOfAnImageAtRestIsReadOnlyAndLeavesItDetached() async throws {
    let bench = try await ServiceBench()
    let image = try await bench.image("vm1")
    let export = try await bench.export("disk0")
    #expect(export.isReadOnly && export.state == .active && export.source == .image(image.id))
    #expect(try bench.service.image(.name("vm1")) == image)
    let order = try #require(bench.engine.servedExports[export.id])
    #expect(order.source == .image(image.location) && order.isReadOnly && order.name == "disk0")
    #expect(order.description == "image 'vm1'")
    let event = try #require(try bench.events().last)
    #expect(event.kind == .exportCreated && event.subject == export.id.ulid)
    #expect(event.payload["image"] == .string(image.id.description))
    try bench.expectInLine()
  }

  @Test func readWriteExportAttachesItsImageAndTheLastOneDetachesIt() async throws {
    let bench = try await ServiceBench()
    let image = try await bench.image("vm1")
    let first = try await bench.export("disk0", isReadOnly: false)
    let attached = try bench.service.image(.name("vm1"))
    #expect(attached.state == .attached && attached.attachment?.cause == .export)
    #expect(bench.engine.servedExports[first.id]?.source == .attachedImage(image.id))
    #expect(try bench.eventKinds().suffix(2) == [.imageChanged, .exportCreated])
    // Another one is a view of the same device, and keeps it open.
    let second = try await bench.export("view", isReadOnly: true)
    #expect(bench.engine.servedExports[second.id]?.source == .attachedImage(image.id))
    await expectRefusal(.imageInUse) { try await bench.service.detachImage(.name("vm1")) }
    // Detaching it is refused, so no client is told to do that.
    let refusal = await expectRefusal(.imageInUse) { try await bench.service.unregisterImage(.name("vm1")) }
    #expect(refusal?.remedy == "delete its exports first")
    _ = try await bench.service.deleteExport(.name("disk0"), .safe).done()
    #expect(try bench.service.image(.name("vm1")).state == .attached)
    _ = try await bench.service.deleteExport(.id(second.id), .safe).done()
    let released = try bench.service.image(.name("vm1"))
    #expect(released.state == .detached && released.attachment == nil)
    #expect(try bench.eventKinds().suffix(2) == [.exportDeleted, .imageChanged])
    try bench.expectInLine()
    #expect(bench.engine.servedExports.isEmpty && bench.engine.attachedImages.isEmpty)
  }

  @Test func imageThatWasAttachedByRequestStaysSo() async throws {
    let bench = try await ServiceBench()
    try await bench.image("vm1")
    try await bench.attach("vm1")
    try await bench.export("disk0", isReadOnly: false)
    let refusal = await expectRefusal(.imageInUse) { try await bench.service.detachImage(.name("vm1")) }
    #expect(refusal?.detail.contains("'disk0'") == true)
    _ = try await bench.service.deleteExport(.name("disk0"), .safe).done()
    #expect(try bench.service.image(.name("vm1")).state == .attached)
    try bench.expectInLine()
  }

  @Test func attachKeepsAnImageThatWasAttachedForItsExports() async throws {
    let bench = try await ServiceBench()
    try await bench.image("vm1")
    try await bench.export("disk0", isReadOnly: false)
    await expectRefusal(.imageInUse) { try await bench.service.attachImage(.name("vm1"), cache: .writeback) }
    let kept = try await bench.attach("vm1", cache: .direct)
    #expect(kept.attachment?.cause == .request)
    #expect(bench.engine.orders.filter { if case .attach = $0 { true } else { false } }.count == 1)
    _ = try await bench.service.deleteExport(.name("disk0"), .safe).done()
    #expect(try bench.service.image(.name("vm1")).state == .attached)
    try bench.expectInLine()
  }

  @Test func exportOfABackupShowsItsPointInTime() async throws {
    let bench = try await ServiceBench()
    let backup = try await bench.completeBackup()
    let export = try await bench.export("old", of: backup)
    guard case .backup(let location)? = bench.engine.servedExports[export.id]?.source else {
      throw ExpectationFailure("the engine was asked for something else")
    }
    #expect(location.backup == backup.id && location.chain == backup.chain)
    let view = try bench.service.export(.name("old"))
    #expect(view.imageID == backup.image && view.imageName == "vm1" && view.pointInTime == backup.pointInTime)
    #expect(view.activity == ExportActivity())
    // It can be told while its image is gone from the catalog.
    _ = try await bench.service.unregisterImage(.name("vm1")).done()
    #expect(try bench.service.export(.name("old")).imageName == "vm1")
  }

  @Test func exportedBackupIsKept() async throws {
    let bench = try await ServiceBench()
    let backup = try await bench.completeBackup()
    try await bench.export("old", of: backup)
    #expect(try !bench.service.backup(backup.id).deletable)
    let refusal = await expectRefusal(.exportInUse) { try await bench.service.deleteBackup(backup.id) }
    #expect(refusal?.detail.contains("'old'") == true)
    await expectRefusal(.exportInUse) { try await bench.service.unregisterRepository(.name("local")) }
    _ = try await bench.service.deleteExport(.name("old"), .safe).done()
    #expect(try bench.service.backup(backup.id).deletable)
    let deletion = try await bench.end(of: bench.service.deleteBackup(backup.id).done())
    #expect(deletion.state == .succeeded)
  }

  @Test func whatAnExportedBackupBuildsOnIsKept() async throws {
    let bench = try await ServiceBench()
    let parent = try await bench.completeBackup()
    let chain = try bench.service.chain(parent.chain).chain.chain
    let child = Backup.sample(in: chain, sequence: 1, parent: parent.id)
    try await bench.stored.write { try $0.insert(child) }
    try await bench.export("old", of: child)
    let refusal = await expectRefusal(.exportInUse) { try await bench.service.deleteBackup(parent.id) }
    #expect(refusal?.detail.contains("builds on") == true)
  }

  @Test func exportShowsWhatChangedSinceOtherBackupsOfItsImage() async throws {
    let bench = try await ServiceBench()
    let full = try await bench.completeBackup()
    let chain = try bench.service.chain(full.chain).chain.chain
    let (older, newer) = (
      Backup.sample(in: chain, sequence: 1, parent: full.id), Backup.sample(in: chain, sequence: 2, parent: full.id)
    )
    try await bench.stored.write { catalog in for backup in [older, newer] { try catalog.insert(backup) } }
    let differences = [ExportedDifference(backup: older.id, exportName: "since")]
    let draft = ExportDraft(
      name: "new", source: .backup(newer.id), listen: .unix(path: "/run/cobweb/nbd.sock"), changedSince: differences)
    let export = try await bench.service.createExport(draft).done().export
    #expect(export.changedSince == differences)
    #expect(bench.engine.servedExports[export.id]?.changedSince.map(\.backup.backup) == [older.id])
    // It is needed as long as it is shown, and so is what it builds on.
    let refusal = await expectRefusal(.exportInUse) { try await bench.service.deleteBackup(older.id) }
    #expect(refusal?.detail.contains("'new'") == true && refusal?.remedy?.contains("contexts") == true)
    await expectRefusal(.exportInUse) { try await bench.service.deleteBackup(full.id) }
    let since = ExportChange(changedSince: [ExportedDifference(backup: full.id, exportName: "x")])
    _ = try await bench.service.changeExport(.name("new"), since).done()
    #expect(bench.engine.servedExports[export.id]?.changedSince.map(\.exportName) == ["x"])
    let deletion = try await bench.end(of: bench.service.deleteBackup(older.id).done())
    #expect(deletion.state == .succeeded)
    // What isn't there any more, or isn't whole, is refused, and nothing changes.
    let gone = ExportChange(changedSince: differences)
    await expectRefusal(.notFound) { try await bench.service.changeExport(.name("new"), gone) }
    try await bench.stored.write { catalog in
      var row = try #require(try catalog.backup(full.id))
      row.state = .corrupt
      try catalog.update(row)
    }
    await expectRefusal(.backupCorrupt) { try await bench.service.changeExport(.name("new"), since) }
    #expect(bench.engine.servedExports[export.id]?.changedSince.map(\.exportName) == ["x"])
    _ = try await bench.service.changeExport(.name("new"), ExportChange(changedSince: [])).done()
    #expect(bench.engine.servedExports[export.id]?.changedSince == [])
    try bench.expectInLine()
  }

  @Test func repositoryOfABackupThatIsComparedWithIsKept() async throws {
    let bench = try await ServiceBench()
    let backup = try await bench.completeBackup()
    try await bench.repository("other")
    let made = try await bench.end(of: bench.backUp("vm1", into: "other"))
    let differences = [ExportedDifference(backup: made.backups[0], exportName: "x")]
    try await bench.export("old", of: backup)
    _ = try await bench.service.changeExport(.name("old"), ExportChange(changedSince: differences)).done()
    let refusal = await expectRefusal(.exportInUse) {
      try await bench.service.unregisterRepository(.name("other"))
    }
    #expect(refusal?.detail.contains("'old'") == true)
    _ = try await bench.service.changeExport(.name("old"), ExportChange(changedSince: [])).done()
    _ = try await bench.service.unregisterRepository(.name("other")).done()
  }

  @Test func onlyBackupsOfOneImageAreCompared() async throws {
    let bench = try await ServiceBench()
    let backup = try await bench.completeBackup()
    let image = try await bench.image("vm2")
    let made = try await bench.end(of: bench.backUp("vm2"))
    let differences = [ExportedDifference(backup: made.backups[0], exportName: "x")]
    let listen = ExportAddress.unix(path: "/run/cobweb/nbd.sock")
    for source in [ExportSourceDraft.backup(backup.id), .image(.id(image.id))] {
      let refusal = await expectRefusal(.invalidField) {
        try await bench.service.createExport(
          ExportDraft(name: "new", source: source, listen: listen, changedSince: differences))
      }
      #expect(refusal?.faults.isEmpty == false)
    }
    try await bench.export("old", of: backup)
    await expectRefusal(.invalidField) {
      try await bench.service.changeExport(.name("old"), ExportChange(changedSince: differences))
    }
  }

  @Test(arguments: [
    (Backup.State.running, ProblemCode.backupNotComplete), (.failed, .backupNotComplete), (.corrupt, .backupCorrupt),
  ])
  func onlyAWholeBackupIsExported(state: Backup.State, code: ProblemCode) async throws {
    let bench = try await ServiceBench()
    let backup = try await bench.completeBackup()
    try await bench.stored.write { catalog in
      var row = try #require(try catalog.backup(backup.id))
      row.state = state
      try catalog.update(row)
    }
    await expectRefusal(code) { try await bench.export("old", of: backup) }
    #expect(bench.engine.servedExports.isEmpty)
  }

  @Test func readWriteExportOfABackupIsRefusedAtItsField() async throws {
    let bench = try await ServiceBench()
    let backup = try await bench.completeBackup()
    let draft = ExportDraft(
      name: "old", source: .backup(backup.id), isReadOnly: false, listen: .unix(path: "/run/cobweb/nbd.sock"))
    let refusal = await expectRefusal(.invalidField) { try await bench.service.createExport(draft) }
    #expect(refusal?.faults.first?.part == .field(.readOnly))
  }

  @Test func openImageIsNotChangedByOthers() async throws {
    let bench = try await ServiceBench()
    let backup = try await bench.completeBackup()
    try await bench.export("disk0")
    for refused in [
      await expectRefusal(.imageInUse, { try await bench.service.attachImage(.name("vm1")) }),
      await expectRefusal(.imageInUse, { try await bench.service.unregisterImage(.name("vm1")) }),
      await expectRefusal(.imageInUse, { try await bench.export("disk1", isReadOnly: false) }),
      await expectRefusal(
        .imageInUse,
        { try await bench.service.restoreBackup(backup.id, to: .image(.name("vm1"), confirm: "vm1")) }),
    ] {
      #expect(refused?.detail.contains("'disk0'") == true)
    }
    // A reader beside a reader is fine.
    #expect(try await bench.end(of: bench.backUp("vm1")).state == .succeeded)
    try bench.expectInLine()
  }

  @Test func namesAndAddressesAreChecked() async throws {
    let bench = try await ServiceBench { $0.maximumExports = 3 }
    try await bench.image("vm1")
    try await bench.export("disk0")
    let service = bench.service
    await expectRefusal(.nameTaken) { try await bench.export("disk0") }
    await expectRefusal(.addressUnavailable) {
      try await service.createExport(.sample("a", listen: .unix(path: "/run//cobweb/nbd.sock"), tls: .x509))
    }
    let anywhere = ExportAddress.tcp(host: "0.0.0.0", port: 10809)
    let refusal = await expectRefusal(.tlsRequired) {
      try await service.createExport(.sample("a", listen: anywhere))
    }
    #expect(refusal?.faults.first?.part == .field(.tls))
    _ = try await service.createExport(.sample("a", listen: anywhere, tls: .psk)).done()
    _ = try await service.createExport(.sample("b", listen: .tcp(host: "127.0.0.1", port: 10810))).done()
    await expectRefusal(.queueFull) { try await bench.export("c") }
    bench.engine.script { $0.export = { _ in throw DomainError(.tlsUnavailable, "no certificate") } }
    _ = try await service.deleteExport(.name("b"), .safe)
    await expectRefusal(.tlsUnavailable) { try await bench.export("c") }
    try bench.expectInLine()
  }

  @Test func refusalOfTheEngineClosesTheImageThatWasAttachedForIt() async throws {
    let bench = try await ServiceBench()
    let image = try await bench.image("vm1")
    bench.engine.script { $0.export = { _ in throw DomainError(.addressUnavailable, "in use") } }
    await expectRefusal(.addressUnavailable) { try await bench.export("disk0", isReadOnly: false) }
    #expect(try bench.service.image(.name("vm1")) == image)
    #expect(bench.engine.attachedImages.isEmpty)
    bench.engine.script { script in
      script.export = { _ in }
      script.attach = { _ in throw DomainError(.imageLocked, "QEMU has it") }
    }
    await expectRefusal(.imageLocked) { try await bench.export("disk0", isReadOnly: false) }
    try bench.expectInLine()
    #expect(try bench.eventKinds() == [.imageCreated])
  }

  @Test func clientsKeepAnExportUnlessTheyAreCutOff() async throws {
    let bench = try await ServiceBench()
    try await bench.image("vm1")
    let export = try await bench.export("disk0", isReadOnly: false)
    bench.engine.script { $0.activity = { _ in ExportActivity(clients: 2) } }
    #expect(try bench.service.export(.name("disk0")).activity?.clients == 2)
    await expectRefusal(.exportInUse) { try await bench.service.deleteExport(.name("disk0"), .safe) }
    let dry = ChangeConditions<ExportView>(dryRun: true)
    await expectRefusal(.exportInUse) { try await bench.service.deleteExport(.name("disk0"), .safe, dry) }
    #expect(try bench.service.export(.name("disk0")).export == export)
    let plan = try await bench.service.deleteExport(.name("disk0"), .hard, dry).planned()
    #expect(plan.steps.count == 2 && plan.warnings.count == 1)
    await expectRefusal(.preconditionFailed) {
      try await bench.service.deleteExport(.name("disk0"), .hard, ChangeConditions(expectedRevision: 7))
    }
    _ = try await bench.service.deleteExport(.name("disk0"), .hard, ChangeConditions(expectedRevision: 1)).done()
    await expectRefusal(.notFound) { try bench.service.export(.name("disk0")) }
    try bench.expectInLine()
  }

  @Test func exportWhoseEndFailsStaysUnlessItIsGoneAllTheSame() async throws {
    let bench = try await ServiceBench()
    try await bench.image("vm1")
    let export = try await bench.export("disk0", isReadOnly: false)
    bench.engine.script { $0.withdraw = { _, _ in throw DomainError(.ioError, "no") } }
    await expectRefusal(.ioError) { try await bench.service.deleteExport(.name("disk0"), .hard) }
    #expect(try bench.service.export(.name("disk0")).export == export)
    #expect(try bench.service.image(.name("vm1")).state == .attached)
    try bench.expectInLine()
    bench.engine.script { $0.withdraw = { _, _ in } }
    try await bench.engine.withdraw(export.id, .hard)
    _ = try await bench.service.deleteExport(.name("disk0"), .safe).done()
    try bench.expectInLine()
  }

  @Test func listsAreFilteredByTheirSource() async throws {
    let bench = try await ServiceBench()
    let backup = try await bench.completeBackup()
    try await bench.image("vm2")
    try await bench.export("a", of: "vm1")
    try await bench.export("b", of: "vm2")
    try await bench.export("c", of: backup)
    func names(_ query: ExportQuery) throws -> [ResourceName] {
      try bench.service.exports(query, PageRequest()).items.map(\.export.name)
    }
    #expect(Set(try names(ExportQuery())) == ["a", "b", "c"])
    #expect(try names(ExportQuery(image: .name("vm2"))) == ["b"])
    #expect(try names(ExportQuery(image: .id(backup.image))) == ["a"])
    #expect(try names(ExportQuery(backup: backup.id)) == ["c"])
    await expectRefusal(.notFound) { try names(ExportQuery(image: .name("nobody"))) }
  }

  @Test func plansTellAndWriteNothing() async throws {
    let bench = try await ServiceBench()
    let backup = try await bench.completeBackup()
    let before = try bench.events().count
    let orders = bench.engine.orders.count
    let dry = ChangeConditions<ExportView>(dryRun: true)
    let plan = try await bench.service.createExport(.sample(isReadOnly: false), dry).planned()
    #expect(plan.action == "create-export" && plan.steps.count == 2)
    guard case .export(let export) = plan.resource else { throw ExpectationFailure("\(plan.resource)") }
    #expect(!export.isReadOnly)
    let old = ExportDraft(name: "old", source: .backup(backup.id), listen: .tcp(host: "localhost", port: 1))
    #expect(try await bench.service.createExport(old, dry).planned().steps.count == 1)
    await expectRefusal(.notFound) { try await bench.service.createExport(.sample(of: "nobody"), dry) }
    #expect(try bench.events().count == before && bench.engine.orders.count == orders)
  }

  @Test func repeatedRequestIsAnsweredAsBeforeAndServesOnce() async throws {
    let bench = try await ServiceBench()
    try await bench.image("vm1")
    let service = bench.service
    let conditions = ChangeConditions<ExportView>(
      idempotency: IdempotencyGuard(
        key: IdempotencyKey(who: "me", route: "POST /exports", key: "1"), bodyHash: "x"
      ) { view in
        // Nobody asks the catalog within a transaction.
        bench.catalog.readFault = FaultyCatalog.Fault(atCall: 1, fromThenOn: true)
        defer { bench.catalog.readFault = nil }
        return KeptAnswer("\(view.imageName ?? "?") \(view.activity != nil)")
      })
    _ = try await service.createExport(.sample(), conditions).done()
    let again = try await service.createExport(.sample(), conditions).repeated()
    #expect(again == KeptAnswer("vm1 true"))
    #expect(bench.engine.servedExports.count == 1)
  }
}
