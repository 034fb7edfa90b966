import Foundation
import Model
import ModelTesting
import Orchestrator
import Testing

@Suite struct RestoreTests {
  @Test func restoreToANewFileTellsWhatWasWritten() async throws {
    let bench = try await ServiceBench()
    let backup = try await bench.completeBackup()
    let job = try await bench.end(
      of: bench.service.restoreBackup(backup.id, to: .newFile(path: "/images/back.raw", format: .raw)).done())
    #expect(job.state == .succeeded)
    #expect(job.result?["target"]?["path"] == "/images/back.raw")
    #expect(job.result?["writtenBytes"] == .integer(1 << 16))
    #expect(job.result?["imageName"] == "vm1")
    #expect(
      bench.engine.orders.contains {
        if case .restore(let order, _) = $0 {
          order.target == .newFile(path: "/images/back.raw", format: .raw)
        } else {
          false
        }
      })
  }

  @Test func existingTargetIsRefusedAtOnce() async throws {
    let bench = try await ServiceBench()
    let backup = try await bench.completeBackup()
    let target = RestoreDraft.newFile(path: "/images/back.raw", format: .raw)
    for code in [ProblemCode.targetExists, .sourceNotFound, .pathOutsideFolders, .permissionDenied] {
      bench.engine.script { $0.resolveTarget = { _ in throw DomainError(code, "so it is") } }
      await expectRefusal(code) { try await bench.service.restoreBackup(backup.id, to: target) }
    }
    #expect(try bench.service.jobs(JobFilter(kind: .restore), PageRequest()).items.isEmpty)
  }

  /// The claim is on the file, however its path is written: no two jobs fill it at the same time.
  @Test func twoPathsToOneNewFileAreOneClaim() async throws {
    let bench = try await ServiceBench()
    let backup = try await bench.completeBackup()
    let gate = Gate()
    bench.engine.script { script in
      script.hold(at: gate)
      script.resolveTarget = { $0.replacing("/images/current/../", with: "/images/pool/") }
    }
    let first = try await bench.service.restoreBackup(
      backup.id, to: .newFile(path: "/images/pool/back.raw", format: .raw)
    ).done()
    try await gate.reached()
    let second = try await bench.service.restoreBackup(
      backup.id, to: .newFile(path: "/images/current/../back.raw", format: .raw)
    ).done()
    let waiting = try await bench.job(second.id) { $0.waitingFor != nil }
    #expect(
      waiting.waitingFor == "the restore job \(first.id), which has the file /images/pool/back.raw to itself")
    gate.open()
    let job = try await bench.job(second.id) { $0.state.isEnded }
    #expect(job.result?["target"]?["path"] == "/images/pool/back.raw")
  }

  @Test func targetThatAppearsMeanwhileFailsTheJob() async throws {
    let bench = try await ServiceBench()
    let backup = try await bench.completeBackup()
    bench.engine.script { $0.restore = { _ in throw DomainError(.targetExists, "it is there by now") } }
    let job = try await bench.end(
      of: bench.service.restoreBackup(backup.id, to: .newFile(path: "/images/back.raw", format: .raw)).done())
    #expect(job.state == .failed && job.error?.code == .targetExists)
  }

  @Test func restoreOverAnImageNeedsItsNameAsConfirmation() async throws {
    let bench = try await ServiceBench()
    let backup = try await bench.completeBackup()
    for confirm in [nil, "", "vm2", backup.image.description] as [String?] {
      let refusal = await expectRefusal(.confirmationRequired) {
        try await bench.service.restoreBackup(backup.id, to: .image(.id(backup.image), confirm: confirm))
      }
      #expect(refusal?.faults.first?.part == .field(.confirm))
    }
    let job = try await bench.end(
      of: bench.service.restoreBackup(backup.id, to: .image(.name("vm1"), confirm: "vm1")).done())
    #expect(job.state == .succeeded)
    #expect(job.links.target == backup.image)
    #expect(job.result?["target"]?["imageName"] == "vm1")
  }

  @Test func imageOfAnotherSizeIsRefusedByWhatItIsNow() async throws {
    let bench = try await ServiceBench()
    let backup = try await bench.completeBackup()
    bench.engine.script { script in
      script.inspect = { ImageInspection(format: $0.format, virtualSize: 1 << 21, storedSize: 0) }
    }
    await expectRefusal(.targetMismatch) {
      try await bench.service.restoreBackup(backup.id, to: .image(.name("vm1"), confirm: "vm1"))
    }
  }

  @Test func attachedImageIsRefused() async throws {
    let bench = try await ServiceBench()
    let backup = try await bench.completeBackup()
    try await bench.stored.write { catalog in
      var image = try #require(try catalog.image(named: "vm1"))
      (image.state, image.attachment) = (.attached, Attachment(cache: .direct, cause: .request))
      try catalog.update(image)
    }
    await expectRefusal(.imageInUse) {
      try await bench.service.restoreBackup(backup.id, to: .image(.name("vm1"), confirm: "vm1"))
    }
  }

  @Test func damagedBackupIsNotRestored() async throws {
    let bench = try await ServiceBench()
    let backup = try await bench.completeBackup()
    bench.engine.script { script in
      script.verify = { _ in VerifyReport(findings: ["bad"], findingCount: 1, verifiedBytes: 0) }
    }
    _ = try await bench.end(of: bench.service.verifyBackup(backup.id, level: .checksum).done())
    await expectRefusal(.backupCorrupt) {
      try await bench.service.restoreBackup(backup.id, to: .image(.name("vm1"), confirm: "vm1"))
    }
  }

  @Test func restoreOverAnNBDExportTakesOneOfTheSameSize() async throws {
    let bench = try await ServiceBench()
    let backup = try await bench.completeBackup()
    let uri = "nbd+unix:///x?socket=/run/x.sock"
    let target = RestoreDraft.nbd(uri: uri, targetIsZero: true)
    let plan = try await bench.service.restoreBackup(backup.id, to: target, ChangeConditions(dryRun: true)).planned()
    #expect(plan.warnings.contains { $0.contains("is lost") })
    let job = try await bench.end(of: bench.service.restoreBackup(backup.id, to: target).done())
    #expect(job.state == .succeeded)
    #expect(job.result?["target"] == ["kind": "nbd", "uri": .string(uri), "targetIsZero": true])
    #expect(
      bench.engine.orders.contains {
        if case .restore(let order, _) = $0 { order.target == .nbd(uri: uri, targetIsZero: true) } else { false }
      })
    bench.engine.script { script in
      script.inspect = { ImageInspection(format: $0.format, virtualSize: 1 << 21, storedSize: 0) }
    }
    await expectRefusal(.targetMismatch) { try await bench.service.restoreBackup(backup.id, to: target) }
    bench.engine.script { $0.inspect = { _ in throw DomainError(.peerNotAllowed, "not in nbdPeers") } }
    await expectRefusal(.peerNotAllowed) { try await bench.service.restoreBackup(backup.id, to: target) }
  }

  @Test func nbdExportThatIsAnImageIsRestoredOverAsOne() async throws {
    let bench = try await ServiceBench()
    let backup = try await bench.completeBackup()
    let uri = "nbd://localhost:10809/x"
    _ = try await bench.service.registerImage(ImageDraft(name: "remote", source: .nbd(uri: uri), format: .raw))
    let refusal = await expectRefusal(.sourceTaken) {
      try await bench.service.restoreBackup(backup.id, to: .nbd(uri: uri, targetIsZero: false))
    }
    #expect(refusal?.detail.contains("'remote'") == true)
    let job = try await bench.end(
      of: bench.service.restoreBackup(backup.id, to: .image(.name("remote"), confirm: "remote")).done())
    #expect(job.state == .succeeded)
  }

  @Test func restoresOverOneNBDExportGoOneAfterTheOther() async throws {
    let bench = try await ServiceBench { $0.concurrentJobs = 8 }
    let backup = try await bench.completeBackup()
    let gate = Gate()
    bench.engine.script { $0.hold(at: gate) }
    func restore(_ uri: String) async throws -> Job {
      try await bench.service.restoreBackup(backup.id, to: .nbd(uri: uri, targetIsZero: false)).done()
    }
    let jobs = [try await restore("nbd://a/x"), try await restore("nbd://a/y")]
    try await gate.reached(by: 2)
    let second = try await restore("nbd://a/x")
    let waiting = try await bench.job(second.id) { $0.waitingFor != nil }
    #expect(waiting.waitingFor == "the restore job \(jobs[0].id), which has nbd://a/x to itself")
    gate.open()
    for job in jobs + [second] { #expect(try await bench.end(of: job).state == .succeeded) }
  }
}
