import Foundation
import Model
import ModelTesting
import Orchestrator
import Testing

@Suite struct RescanTests {
  private func rescan(_ bench: ServiceBench) async throws -> Job {
    try await bench.end(of: bench.service.rescanRepository(.name("local")).done())
  }

  @Test func rescanIntoAnEmptyCatalogEqualsTheOriginal() async throws {
    let engine = ScriptedEngine()
    let original = try await ServiceBench(engine: engine)
    try await original.repository()
    for name in ["a", "b", "c"] as [ResourceName] {
      _ = try await original.service.registerImage(
        ImageDraft(name: name, source: .file(path: "/images/\(name)"), format: .raw, labels: ["of": name.text]))
    }
    for _ in 0..<3 { _ = try await original.end(of: original.backUp("a", "b", "c")) }

    let bench = try await ServiceBench(engine: engine) { $0.mergeBatch = 2 }
    #expect(try await bench.repository().id == original.service.repository(.name("local")).id)
    let job = try await rescan(bench)
    #expect(job.state == .succeeded)
    #expect(job.result?["imagesAdded"] == 3 && job.result?["chainsAdded"] == 9 && job.result?["backupsAdded"] == 9)

    #expect(try images(bench) == images(original))
    #expect(try backups(bench) == backups(original))
    let chains = try [bench, original].map { bench in
      try bench.service.chains(image: nil, repository: nil, PageRequest()).items.map { view in
        var view = view
        view.chain.createdAt = .distantPast
        return view
      }
    }
    #expect(chains[0] == chains[1])
    // And once more: nothing is left to do.
    let again = try await rescan(bench)
    #expect(again.result?["imagesAdded"] == 0 && again.result?["backupsAdded"] == 0)
    #expect(again.result?["backupsChanged"] == 0 && again.result?["backupsMissing"] == 0)
  }

  /// Without what only a catalog knows: when it registered them, and how often they changed there.
  private func images(_ bench: ServiceBench) throws -> [Image] {
    try bench.service.images(PageRequest()).items.map { image in
      var image = image
      (image.createdAt, image.revision) = (.distantPast, 0)
      return image
    }
  }

  private func backups(_ bench: ServiceBench) throws -> [BackupView] {
    try bench.service.backups(BackupQuery(), PageRequest()).items.map { view in
      var view = view
      (view.backup.job, view.backup.createdAt, view.backup.revision) = (nil, .distantPast, 0)
      return view
    }
  }

  @Test func takenNameGetsASuffix() async throws {
    let engine = ScriptedEngine()
    let original = try await ServiceBench(engine: engine)
    let backup = try await original.completeBackup()
    let bench = try await ServiceBench(engine: engine)
    try await bench.repository()
    try await bench.image("vm1")
    try await bench.image("vm1-recovered", path: "/images/other")
    let job = try await rescan(bench)
    let recovered = try bench.service.image(.id(backup.image))
    #expect(recovered.name == "vm1-recovered-2")
    #expect(try bench.service.backup(backup.id).imageName == recovered.name)
    guard case .array(let findings)? = job.result?["findings"] else { throw ExpectationFailure("no findings") }
    #expect(findings.count == 2, "the name, and the source that both have: \(findings)")
  }

  @Test func backupThatIsGoneIsNoLongerCalledComplete() async throws {
    let bench = try await ServiceBench()
    let backup = try await bench.completeBackup()
    let location = StoredBackupLocation(
      repository: try bench.service.repository(.name("local")).location, image: backup.image, chain: backup.chain,
      sequence: 0, backup: backup.id)
    try await bench.engine.delete(location, control: RecordingJobControl())
    let job = try await rescan(bench)
    #expect(job.state == .succeeded && job.result?["backupsMissing"] == 1)
    let row = try bench.service.backup(backup.id).backup
    #expect(row.state == .failed && row.failure == "it is missing from the repository")
    let log = try bench.service.jobLog(job.id, PageRequest()).items
    #expect(log.contains { $0.level == .warning && $0.message.contains(backup.id.description) })
    // If it is told to be missing once, it isn't told again.
    #expect(try await rescan(bench).result?["backupsMissing"] == 0)
  }

  @Test func damageThatWasFoundStaysFound() async throws {
    let bench = try await ServiceBench()
    let backup = try await bench.completeBackup()
    bench.engine.script { script in
      script.verify = { _ in VerifyReport(findings: ["bad"], findingCount: 1, verifiedBytes: 0) }
    }
    _ = try await bench.end(of: bench.service.verifyBackup(backup.id, level: .checksum).done())
    #expect(try await rescan(bench).result?["backupsChanged"] == 0)
    #expect(try bench.service.backup(backup.id).backup.state == .corrupt)
  }

  @Test func backupOfAWaitingJobIsLeftToIt() async throws {
    let bench = try await ServiceBench { $0.concurrentJobs = 2 }
    try await bench.repository()
    try await bench.image("vm1")
    let gate = Gate()
    bench.engine.script { $0.hold(at: gate) }
    let first = try await bench.backUp("vm1")
    let rescan = try await bench.service.rescanRepository(.name("local")).done()
    let last = try await bench.backUp("vm1")
    gate.open()
    for job in [first, rescan, last] { #expect(try await bench.end(of: job).state == .succeeded) }
    #expect(try bench.service.job(rescan.id).result?["backupsMissing"] == 0)
    #expect(try bench.service.backup(last.backups[0]).backup.state == .complete)
  }

  @Test func findingsOfTheScanReachLogAndResult() async throws {
    let bench = try await ServiceBench { $0.findingsPerResult = 2 }
    try await bench.repository()
    bench.engine.script { $0.scanFindings = { _ in ["x.json is no manifest", "y.qcow2 has none", "z"] } }
    let job = try await rescan(bench)
    #expect(job.result?["findings"] == ["x.json is no manifest", "y.qcow2 has none"])
    #expect(job.result?["findingCount"] == 3)
    #expect(try bench.service.jobLog(job.id, PageRequest()).items.filter { $0.level == .warning }.count == 3)
  }

  @Test func unreadableRepositoryFailsTheRescanAndChangesNothing() async throws {
    let bench = try await ServiceBench()
    let backup = try await bench.completeBackup()
    bench.engine.script { $0.scanFindings = { _ in throw DomainError(.repositoryUnavailable, "not mounted") } }
    let job = try await rescan(bench)
    #expect(job.state == .failed && job.error?.code == .repositoryUnavailable)
    #expect(try bench.service.backup(backup.id).backup == backup)
  }

  @Test func missingBackupsFailInStepsOfBoundedSize() async throws {
    let bench = try await ServiceBench { $0.mergeBatch = 2 }
    try await bench.repository()
    try await bench.image("vm1")
    for _ in 0..<7 { _ = try await bench.end(of: bench.backUp("vm1")) }
    let repository = try bench.service.repository(.name("local")).location
    for backup in try bench.service.backups(BackupQuery(), PageRequest()).items.map(\.backup) {
      let location = StoredBackupLocation(
        repository: repository, image: backup.image, chain: backup.chain, sequence: 0, backup: backup.id)
      try await bench.engine.delete(location, control: RecordingJobControl())
    }
    let writes = bench.catalog.writes
    #expect(try await rescan(bench).result?["backupsMissing"] == 7)
    // Four steps, beside the job's submission, beginning and end.
    #expect(bench.catalog.writes - writes >= 4 + 3)
    #expect(try bench.service.backups(BackupQuery(), PageRequest()).items.allSatisfy { $0.backup.state == .failed })
  }
}
