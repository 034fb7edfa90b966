import Foundation
import Model
import ModelTesting
import Orchestrator
import Testing

@Suite struct RestoreTests {
  private func absent(_ bench: ServiceBench) {
    bench.engine.script { $0.suggestFormat = { _ in throw DomainError(.sourceNotFound, "nothing is there") } }
  }

  @Test func restoreToANewFileTellsWhatWasWritten() async throws {
    let bench = try await ServiceBench()
    let backup = try await bench.completeBackup()
    absent(bench)
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
    await expectRefusal(.targetExists) { try await bench.service.restoreBackup(backup.id, to: target) }
    bench.engine.script { $0.suggestFormat = { _ in throw DomainError(.sourceNotAFile, "a folder") } }
    await expectRefusal(.targetExists) { try await bench.service.restoreBackup(backup.id, to: target) }
    bench.engine.script { $0.suggestFormat = { _ in throw DomainError(.pathOutsideFolders, "outside") } }
    await expectRefusal(.pathOutsideFolders) { try await bench.service.restoreBackup(backup.id, to: target) }
    #expect(try bench.service.jobs(JobFilter(kind: .restore), PageRequest()).items.isEmpty)
  }

  @Test func targetThatAppearsMeanwhileFailsTheJob() async throws {
    let bench = try await ServiceBench()
    let backup = try await bench.completeBackup()
    absent(bench)
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
      #expect(refusal?.faults.first?.pointer == "/confirm")
    }
    let job = try await bench.end(
      of: bench.service.restoreBackup(backup.id, to: .image(.name("vm1"), confirm: "vm1")).done())
    #expect(job.state == .succeeded)
    #expect(job.links["target"] == .string(backup.image.description))
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
      image.state = .attached
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
}
