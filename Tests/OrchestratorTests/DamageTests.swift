import Foundation
import Model
import ModelTesting
import Orchestrator
import Testing

/// A restore over an image that doesn't come to its end.
@Suite struct DamageTests {
  /// A restore over "vm1" that stands still after its first byte.
  private func overwriting(_ bench: ServiceBench, _ gate: Gate) async throws -> (Job, Backup) {
    let backup = try await bench.completeBackup()
    bench.engine.script { $0.hold(at: gate) { if case .restore = $0 { true } else { false } } }
    let job = try await bench.service.restoreBackup(backup.id, to: .image(.name("vm1"), confirm: "vm1")).done()
    try await gate.reached()
    return (job, backup)
  }

  private func image(_ bench: ServiceBench) throws -> Image { try bench.service.image(.name("vm1")) }

  @Test func imageIsDamagedFromTheFirstByteToTheLast() async throws {
    let bench = try await ServiceBench()
    let gate = Gate()
    let (job, backup) = try await overwriting(bench, gate)
    let damage = try #require(try image(bench).damage)
    #expect(damage.job == job.id && damage.since == ManualClock.epoch)
    #expect(damage.why.contains("mixture") && damage.why.contains(backup.id.description))
    await expectRefusal(.imageInUse) { try await bench.service.clearDamage(of: .name("vm1"), confirm: "vm1") }
    gate.open()
    #expect(try await bench.end(of: job).state == .succeeded)
    #expect(try image(bench).damage == nil)
  }

  @Test func cancelledRestoreSaysWhatItLeft() async throws {
    let bench = try await ServiceBench()
    let (job, _) = try await overwriting(bench, Gate())
    _ = try await bench.service.cancelJob(job.id)
    let ended = try await bench.end(of: job)
    #expect(ended.state == .cancelled && ended.error?.code == .cancelled)
    #expect(ended.error?.detail.contains("image 'vm1' now holds a mixture") == true)
    #expect(ended.error?.remedy?.contains("restore over it again") == true)
    #expect(try image(bench).damage?.job == job.id)
  }

  @Test func stoppedServerSaysWhatItsRestoreLeft() async throws {
    let bench = try await ServiceBench()
    let (job, _) = try await overwriting(bench, Gate())
    await bench.service.stop(grace: .seconds(10))
    let ended = try #require(try bench.stored.read { try $0.job(job.id) })
    #expect(ended.state == .interrupted && ended.error?.detail.contains("mixture") == true)
  }

  @Test func killedRestoreIsFoundOutAtTheStart() async throws {
    let (stored, engine) = (InMemoryCatalog(), ScriptedEngine())
    let first = try await ServiceBench(catalog: stored, engine: engine)
    let (job, _) = try await overwriting(first, Gate())
    // As if the first server had been killed: nothing of it writes any more.
    first.catalog.writeFault = FaultyCatalog.Fault(atCall: 1, fromThenOn: true)
    engine.script { $0.work = { _, _ in } }
    let bench = try await ServiceBench(catalog: stored, engine: engine)
    let ended = try bench.service.job(job.id)
    #expect(ended.state == .interrupted && ended.error?.code == .interrupted)
    #expect(ended.error?.detail.contains("image 'vm1' now holds a mixture") == true)
    let log = try bench.service.jobLog(job.id, PageRequest()).items
    #expect(log.last?.level == .error && log.last?.message.contains("mixture") == true)
    #expect(try image(bench).damage?.job == job.id)
    // Backups of it say so.
    let made = try await bench.end(of: bench.backUp("vm1"))
    let backup = try bench.service.backup(made.backups[0]).backup
    #expect(backup.state == .complete && backup.isMixture && backup.reason.contains("mixture"))
    let plan = try await bench.service.createBackup(
      BackupDraft(images: [.name("vm1")], repository: .name("local")), ChangeConditions(dryRun: true)
    ).planned()
    #expect(plan.warnings.contains { $0.contains("'vm1' is damaged") })
    // Also where another catalog learns of it from the manifest.
    let other = try await ServiceBench(engine: engine)
    try await other.repository()
    _ = try await other.end(of: other.service.rescanRepository(.name("local")).done())
    #expect(try other.service.backup(backup.id).backup.isMixture)
    // A restore that succeeds makes it good.
    let whole = try await bench.end(
      of: bench.service.restoreBackup(backup.id, to: .image(.name("vm1"), confirm: "vm1")).done())
    #expect(whole.state == .succeeded)
    #expect(try image(bench).damage == nil)
  }

  @Test func overlayOfADamagedImageIsAMixtureToo() async throws {
    let bench = try await ServiceBench()
    let (job, _) = try await overwriting(bench, Gate())
    _ = try await bench.service.cancelJob(job.id)
    _ = try await bench.end(of: job)
    bench.engine.script { script in
      script.inspect = { location in
        var inspection = ImageInspection(format: location.format, virtualSize: 1 << 20, storedSize: 0)
        if location.format == .qcow2 {
          inspection.backingChain = [.init(path: "/images/./vm1", format: .raw, virtualSize: 1 << 20)]
        }
        return inspection
      }
    }
    let overlay = ImageDraft(name: "top", source: .file(path: "/images/top"), format: .qcow2)
    _ = try await bench.service.registerImage(overlay)
    let made = try await bench.end(of: bench.backUp("top"))
    #expect(try bench.service.backup(made.backups[0]).backup.isMixture)
  }

  /// The backing file's name is a link to the damaged image's file.
  @Test func overlayOfADamagedImageIsAMixtureWhateverThePath() async throws {
    let bench = try await ServiceBench()
    let (job, _) = try await overwriting(bench, Gate())
    _ = try await bench.service.cancelJob(job.id)
    _ = try await bench.end(of: job)
    bench.engine.script { script in
      script.inspect = { location in
        var inspection = ImageInspection(format: location.format, virtualSize: 1 << 20, storedSize: 0)
        let base = location.source.place == "/images/top" ? "/images/link" : "/images/other"
        if location.format == .qcow2 {
          inspection.backingChain = [.init(path: base, format: .raw, virtualSize: 1 << 20)]
        }
        return inspection
      }
      script.identity = { source in
        switch source.place {
        case "/images/vm1", "/images/link": .file(device: 1, inode: 7)
        case "/images/other": .file(device: 2, inode: 7)
        default: nil
        }
      }
    }
    for (name, isMixture) in [("top", true), ("beside", false)] as [(ResourceName, Bool)] {
      let draft = ImageDraft(name: name, source: .file(path: "/images/\(name)"), format: .qcow2)
      _ = try await bench.service.registerImage(draft)
      let made = try await bench.end(of: bench.backUp(name))
      #expect(try bench.service.backup(made.backups[0]).backup.isMixture == isMixture)
    }
  }

  @Test func personClearsTheDamageByTheImagesName() async throws {
    let bench = try await ServiceBench()
    let (job, _) = try await overwriting(bench, Gate())
    _ = try await bench.service.cancelJob(job.id)
    _ = try await bench.end(of: job)
    for confirm in [nil, "vm2"] as [String?] {
      await expectRefusal(.confirmationRequired) {
        try await bench.service.clearDamage(of: .name("vm1"), confirm: confirm)
      }
    }
    let cleared = try await bench.service.clearDamage(of: .name("vm1"), confirm: "vm1").done()
    #expect(try cleared.damage == nil && image(bench) == cleared)
    #expect(try bench.eventKinds().last == .imageChanged)
    #expect(try await bench.service.clearDamage(of: .name("vm1"), confirm: "vm1").done().revision == cleared.revision)
    let made = try await bench.end(of: bench.backUp("vm1"))
    #expect(try !bench.service.backup(made.backups[0]).backup.isMixture)
  }

  @Test func exportThatWasOverwrittenMayHoldAMixture() async throws {
    let bench = try await ServiceBench()
    let backup = try await bench.completeBackup()
    let gate = Gate()
    bench.engine.script { $0.hold(at: gate) }
    let job = try await bench.service.restoreBackup(backup.id, to: .nbd(uri: "nbd://a/x", targetIsZero: false)).done()
    try await gate.reached()
    _ = try await bench.service.cancelJob(job.id)
    #expect(try await bench.end(of: job).error?.detail.contains("nbd://a/x may hold a mixture") == true)
  }

  @Test func catalogThatDoesNotTakeTheMarkKeepsTheImageAsItIs() async throws {
    let bench = try await ServiceBench { $0.storeInterval = .seconds(60) }
    let backup = try await bench.completeBackup()
    let gate = Gate(isOpen: true)
    bench.engine.script { $0.hold(at: gate) }
    // The job's row, its beginning, then the mark and everything after it.
    bench.catalog.writeFault = FaultyCatalog.Fault(atCall: 3, fromThenOn: true)
    _ = try await bench.service.restoreBackup(backup.id, to: .image(.name("vm1"), confirm: "vm1")).done()
    try await eventually("it gave up") { bench.catalog.writes > 3 + 5 }
    #expect(gate.arrivals == 0)
  }

  @Test func failedBackupTellsHowFarItCame() async throws {
    let bench = try await ServiceBench()
    try await bench.repository()
    for name in ["a", "b"] as [ResourceName] { try await bench.image(name) }
    bench.engine.script { script in
      script.work = { order, control in
        control.report(done: 1 << 18, total: 1 << 20)
        if case .backUp(let order, _) = order, order.image.name == "a" { throw DomainError(.ioError, "EIO") }
        control.report(done: 1 << 20, total: 1 << 20)
      }
    }
    let job = try await bench.end(of: bench.backUp("a", "b"))
    #expect(job.state == .failed)
    #expect(job.progress.done == (1 << 18) + (1 << 20) && job.progress.total == 2 << 20)
  }
}
