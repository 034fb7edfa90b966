import Foundation
import Model
import ModelTesting
import Orchestrator
import Testing

@Suite struct BackupTests {
  @Test func backupHasTheReceiptAndTheJobTheResult() async throws {
    let bench = try await ServiceBench()
    try await bench.repository()
    let image = try await bench.image("vm1")
    let asked = try await bench.backUp("vm1")
    #expect(asked.state == .queued)
    #expect(try bench.service.backup(asked.backups[0]).backup.job == asked.id)
    let job = try await bench.end(of: asked)
    #expect(job.state == .succeeded && job.error == nil)
    let view = try bench.service.backup(job.backups[0])
    #expect(view.backup.state == .complete && view.deletable && view.dependents.isEmpty)
    #expect(view.backup.storedSize == 1 << 15 && view.backup.merkleRoot?.count == 64)
    #expect(view.imageName == "vm1" && view.repositoryName == "local")
    #expect(
      job.result?.stored
        == .object([
          "backups": .array([
            .object([
              "image": .string(image.id.description), "imageName": "vm1",
              "backup": .string(job.backups[0].description), "outcome": "complete",
            ])
          ])
        ]))
    #expect(job.progress.done == 1 << 20 && job.progress.total == 1 << 20)
  }

  @Test func everyStateOfAJobHasItsEventInOrder() async throws {
    let bench = try await ServiceBench()
    try await bench.repository()
    try await bench.image("vm1")
    let job = try await bench.end(of: bench.backUp("vm1"))
    let events = try bench.events().filter { $0.job == job.id }
    #expect(events.map(\.kind) == [.backupCreated, .jobCreated, .jobChanged, .backupChanged, .jobChanged])
    #expect(events.compactMap { $0.payload["state"] } == ["running", "queued", "running", "complete", "succeeded"])
  }

  @Test func jobOverSeveralImagesFailsIfOneFailsAndTellsOfAll() async throws {
    let bench = try await ServiceBench()
    try await bench.repository()
    for name in ["a", "b", "c"] as [ResourceName] { try await bench.image(name) }
    bench.engine.script { script in
      script.receipt = { order in
        if order.image.name == "b" { throw DomainError(.ioError, "sector 7 is unreadable", remedy: "replace it") }
        return BackupReceipt(
          pointInTime: ManualClock.epoch, finishedAt: ManualClock.epoch, virtualSize: 1 << 20, dirtyBytes: 0,
          storedSize: 1, merkleRoot: "5a", consistency: .offline)
      }
    }
    let job = try await bench.end(of: bench.backUp("a", "b", "c"))
    #expect(job.state == .failed)
    #expect(job.error?.code == .ioError)
    #expect(job.error?.detail.contains("1 of 3 images failed") == true)
    guard case .array(let items)? = job.result?["backups"] else { throw ExpectationFailure("no result") }
    #expect(items.map { $0["outcome"] } == ["complete", "failed", "complete"])
    #expect(items[1]["error"]?["code"] == "io-error")
    let states = try job.backups.map { try bench.service.backup($0).backup.state }
    #expect(states == [.complete, .failed, .complete])
    #expect(try bench.service.backup(job.backups[1]).backup.failure == "sector 7 is unreadable")
    let groups = Set(try job.backups.map { try bench.service.backup($0).backup.group })
    #expect(groups.count == 1)
  }

  @Test func badRequestsAreRefusedBeforeAnythingIsMade() async throws {
    let bench = try await ServiceBench { $0.imagesPerBackup = 2 }
    try await bench.repository()
    for name in ["a", "b", "c"] as [ResourceName] { try await bench.image(name) }
    await expectRefusal(.notFound) { try await bench.backUp("nobody") }
    await expectRefusal(.notFound) { try await bench.backUp("a", into: "nowhere") }
    await expectRefusal(.invalidField) { try await bench.backUp("a", "a") }
    await expectRefusal(.invalidField) { try await bench.backUp("a", "b", "c") }
    await expectRefusal(.invalidField) {
      try await bench.service.createBackup(BackupDraft(images: [], repository: .name("local")))
    }
    #expect(try bench.service.jobs(JobFilter(), PageRequest()).items.isEmpty)
    #expect(try bench.service.backups(BackupQuery(), PageRequest()).items.isEmpty)
  }

  @Test func soundBackupKeepsWhenItWasVerified() async throws {
    let bench = try await ServiceBench()
    let backup = try await bench.completeBackup()
    bench.clock.advance(bySeconds: 60)
    let job = try await bench.end(of: bench.service.verifyBackup(backup.id, level: .checksum).done())
    #expect(job.state == .succeeded && job.result?["sound"] == true)
    let verified = try bench.service.backup(backup.id).backup
    #expect(verified.verifiedAt == ManualClock.epoch + 60 && verified.verifyLevel == .checksum)
    #expect(verified.state == .complete)
  }

  @Test func damageMarksTheBackupAndOnlyAFullCheckClearsIt() async throws {
    let bench = try await ServiceBench()
    let backup = try await bench.completeBackup()
    bench.engine.script { script in
      script.verify = { _ in VerifyReport(findings: ["cluster 9 differs"], findingCount: 3, verifiedBytes: 9) }
    }
    let job = try await bench.end(of: bench.service.verifyBackup(backup.id, level: .checksum).done())
    #expect(job.state == .failed && job.error?.code == .backupCorrupt)
    #expect(job.result?["sound"] == false && job.result?["findingCount"] == 3)
    #expect(try bench.service.backup(backup.id).backup.state == .corrupt)
    #expect(try bench.service.backup(backup.id).backup.failure == "cluster 9 differs (and 2 more)")

    bench.engine.script { script in
      script.verify = { _ in VerifyReport(findings: [], findingCount: 0, verifiedBytes: 9) }
    }
    _ = try await bench.end(of: bench.service.verifyBackup(backup.id, level: .metadata).done())
    #expect(try bench.service.backup(backup.id).backup.state == .corrupt)
    _ = try await bench.end(of: bench.service.verifyBackup(backup.id, level: .checksum).done())
    #expect(try bench.service.backup(backup.id).backup.state == .complete)
  }

  @Test func storageErrorDuringVerificationSaysNothingOfTheBackup() async throws {
    let bench = try await ServiceBench()
    let backup = try await bench.completeBackup()
    bench.engine.script { $0.verify = { _ in throw DomainError(.ioError, "EIO") } }
    let job = try await bench.end(of: bench.service.verifyBackup(backup.id, level: .checksum).done())
    #expect(job.state == .failed && job.error?.code == .ioError)
    let after = try bench.service.backup(backup.id).backup
    #expect(after.state == .complete && after.verifiedAt == nil)
  }

  @Test func deletedBackupTakesItsChainAlong() async throws {
    let bench = try await ServiceBench()
    let backup = try await bench.completeBackup()
    let job = try await bench.end(of: bench.service.deleteBackup(backup.id).done())
    #expect(job.state == .succeeded)
    await expectRefusal(.notFound) { try bench.service.backup(backup.id) }
    await expectRefusal(.notFound) { try bench.service.chain(backup.chain) }
    #expect(try bench.eventKinds().suffix(2) == [.backupDeleted, .jobChanged])
  }

  @Test(arguments: [true, false])
  func deletionThatWasCutShortIsNotTakenForACompleteBackup(isTombstoned: Bool) async throws {
    let bench = try await ServiceBench()
    let backup = try await bench.completeBackup()
    let engine = bench.engine
    engine.script { script in
      script.work = { order, control in
        guard case .delete(let location, _) = order, !(control is RecordingJobControl) else { return }
        if isTombstoned { try await engine.delete(location, control: RecordingJobControl()) }
        throw DomainError(.ioError, "the folder can't be emptied")
      }
    }
    let job = try await bench.end(of: bench.service.deleteBackup(backup.id).done())
    #expect(job.state == .failed && job.error?.code == .ioError)
    #expect(try bench.service.backup(backup.id).backup.state == (isTombstoned ? .failed : .complete))
    engine.script { $0.work = { _, _ in } }
    #expect(try await bench.end(of: bench.service.deleteBackup(backup.id).done()).state == .succeeded)
    await expectRefusal(.notFound) { try bench.service.backup(backup.id) }
  }

  @Test func backupWithDependentsIsKept() async throws {
    let bench = try await ServiceBench()
    let backup = try await bench.completeBackup()
    let child = BackupID()
    try await bench.stored.write { catalog in
      let chain = try #require(try catalog.chain(backup.chain))
      try catalog.insert(Backup.sample(in: chain, id: child, sequence: 1, parent: backup.id))
    }
    let refusal = await expectRefusal(.backupHasDependents) { try await bench.service.deleteBackup(backup.id) }
    #expect(refusal?.detail.contains(child.description) == true)
    let view = try bench.service.backup(backup.id)
    #expect(view.dependents == [child] && !view.deletable)
    let chain = try bench.service.chain(backup.chain).chain
    #expect(chain.backups == [backup.id, child])
    #expect(chain.storedSize == 2 << 15)
    #expect(try bench.service.chains(image: .name("vm1"), repository: .name("local"), PageRequest()).items == [chain])
  }

  @Test func unfinishedBackupIsNeitherVerifiedNorRestoredNorDeleted() async throws {
    let bench = try await ServiceBench()
    let gate = Gate()
    bench.engine.script { $0.hold(at: gate) }
    try await bench.repository()
    try await bench.image("vm1")
    let job = try await bench.backUp("vm1")
    let id = job.backups[0]
    func refuseAll() async {
      await expectRefusal(.backupNotComplete) { try await bench.service.verifyBackup(id, level: .metadata) }
      await expectRefusal(.backupNotComplete) {
        try await bench.service.restoreBackup(id, to: .newFile(path: "/images/x", format: .raw))
      }
    }
    await refuseAll()
    await expectRefusal(.backupNotComplete) { try await bench.service.deleteBackup(id) }
    _ = try await bench.service.cancelJob(job.id)
    _ = try await bench.end(of: job)
    await refuseAll()
    gate.open()
    // What failed can be deleted, whether or not the repository holds anything of it.
    bench.engine.script { script in
      script.work = { order, _ in
        if case .delete = order { throw DomainError(.notFound, "no such backup") }
      }
    }
    #expect(try await bench.end(of: bench.service.deleteBackup(id).done()).state == .succeeded)
    await expectRefusal(.notFound) { try bench.service.backup(id) }
  }
}
