import Foundation
import Model
import ModelTesting
import Orchestrator
import Testing

/// Exports against jobs, and against each other.
@Suite struct ExportRaceTests {
  @Test func imageOfALiveJobIsNotExportedReadWrite() async throws {
    let bench = try await ServiceBench { $0.concurrentJobs = 1 }
    try await bench.repository()
    for name in ["vm1", "vm2"] as [ResourceName] { try await bench.image(name) }
    let gate = Gate()
    bench.engine.script { $0.hold(at: gate) }
    let running = try await bench.backUp("vm1")
    let waiting = try await bench.backUp("vm2")
    try await gate.reached()
    for (name, job) in [("vm1", running), ("vm2", waiting)] as [(ResourceName, Job)] {
      let refusal = await expectRefusal(.imageInUse) { try await bench.export("a", of: name, isReadOnly: false) }
      #expect(refusal?.detail.contains(job.id.description) == true)
      try await bench.export(name, of: name)
    }
    gate.open()
    for job in [running, waiting] { #expect(try await bench.end(of: job).state == .succeeded) }
    try bench.expectInLine()
  }

  @Test func imageOfALiveRestoreIsNotExportedAtAll() async throws {
    let bench = try await ServiceBench()
    let backup = try await bench.completeBackup()
    let gate = Gate()
    bench.engine.script { $0.hold(at: gate) }
    let restore = try await bench.service.restoreBackup(backup.id, to: .image(.name("vm1"), confirm: "vm1")).done()
    await expectRefusal(.imageInUse) { try await bench.export("disk0") }
    await expectRefusal(.imageInUse) { try await bench.export("disk0", isReadOnly: false) }
    // What it is restored from is only read.
    try await bench.export("old", of: backup)
    gate.open()
    #expect(try await bench.end(of: restore).state == .succeeded)
    try bench.expectInLine()
  }

  @Test func backupThatIsAskedForWhileItsImageIsExportedReadWriteComesFirst() async throws {
    let bench = try await ServiceBench { $0.concurrentJobs = 8 }
    try await bench.repository()
    try await bench.image("vm1")
    let gate = Gate()
    bench.engine.script { script in
      script.hold(at: gate) { if case .attach = $0 { true } else { false } }
    }
    async let refusal = expectRefusal(.imageInUse) { try await bench.export("disk0", isReadOnly: false) }
    try await gate.reached()
    let job = try await bench.backUp("vm1")
    let waiting = try await bench.job(job.id) { $0.waitingFor != nil }
    #expect(waiting.state == .queued && waiting.waitingFor == "the making of export 'disk0'")
    gate.open()
    #expect(await refusal?.detail.contains(job.id.description) == true)
    #expect(try await bench.end(of: job).state == .succeeded)
    try bench.expectInLine()
    #expect(bench.engine.servedExports.isEmpty && bench.engine.attachedImages.isEmpty)
  }

  /// By a job, and by an export that attaches it: neither holds up anything but its own image.
  @Test(.timeLimit(.minutes(1)), arguments: [true, false])
  func imageWhoseAttachHangsKeepsNoOtherFromBeingAttachedAndExported(_ isByJob: Bool) async throws {
    let bench = try await ServiceBench()
    for name in ["hung", "vm2"] as [ResourceName] { try await bench.image(name) }
    let hung = try bench.service.image(.name("hung")).id
    let gate = Gate()
    bench.engine.script { script in
      script.hold(at: gate) { if case .attach(let order, _) = $0 { order.image == hung } else { false } }
    }
    let stuck = Task {
      if isByJob {
        _ = try await bench.attach("hung")
      } else {
        _ = try await bench.export("disk0", of: "hung", isReadOnly: false)
      }
    }
    try await gate.reached()

    _ = try await bench.attach("vm2")
    _ = try await bench.export("disk2", of: "vm2", isReadOnly: false)
    _ = try await bench.service.deleteExport(.name("disk2"), .safe).done()
    let detach = try await bench.service.detachImage(.name("vm2")).done()
    #expect(try await bench.end(of: detach).state == .succeeded)
    #expect(try bench.service.image(.name("hung")).state == .detached)
    gate.open()
    _ = try await stuck.value
    #expect(try bench.service.image(.name("hung")).state == .attached)
    try bench.expectInLine()
  }

  @Test func detachWaitsForTheExportThatIsMadeAndIsThenRefused() async throws {
    let bench = try await ServiceBench()
    try await bench.image("vm1")
    try await bench.attach("vm1")
    let gate = Gate()
    bench.engine.script { script in
      script.silence(at: gate) { if case .export = $0 { true } else { false } }
    }
    async let disk = bench.export("disk0", isReadOnly: false)
    try await gate.reached()
    let detach = try await bench.service.detachImage(.name("vm1")).done()
    gate.open()
    // Whoever comes first, the other one is told.
    do {
      _ = try await disk
      let ended = try await bench.end(of: detach)
      #expect(ended.state == .failed && ended.error?.code == .imageInUse)
    } catch let error as DomainError {
      #expect(error.code == .imageInUse)
      #expect(try await bench.end(of: detach).state == .succeeded)
    }
    try bench.expectInLine()
  }

  @Test func backupThatIsBeingDeletedIsNotExported() async throws {
    let bench = try await ServiceBench()
    let backup = try await bench.completeBackup()
    let gate = Gate()
    bench.engine.script { $0.hold(at: gate) }
    let deletion = try await bench.service.deleteBackup(backup.id).done()
    let refusal = await expectRefusal(.backupNotComplete) { try await bench.export("old", of: backup) }
    #expect(refusal?.detail.contains(deletion.id.description) == true)
    gate.open()
    #expect(try await bench.end(of: deletion).state == .succeeded)
    await expectRefusal(.notFound) { try await bench.export("old", of: backup) }
  }

  @Test func deletionThatWaitedFindsAnExportThatAppeared() async throws {
    let bench = try await ServiceBench { $0.concurrentJobs = 1 }
    let backup = try await bench.completeBackup()
    try await bench.image("vm2")
    let gate = Gate()
    bench.engine.script { $0.hold(at: gate) }
    let running = try await bench.backUp("vm2")
    try await gate.reached()
    let deletion = try await bench.service.deleteBackup(backup.id).done()
    try await bench.stored.write { try $0.insert(Export.sample(of: .backup(backup.id))) }
    gate.open()
    #expect(try await bench.end(of: running).state == .succeeded)
    #expect(try await bench.end(of: deletion).error?.code == .exportInUse)
    #expect(try bench.service.backup(backup.id).backup.state == .complete)
  }

  @Test func noJobOpensAnImageBeforeItsLastExportHasClosedIt() async throws {
    let bench = try await ServiceBench()
    try await bench.repository()
    try await bench.image("vm1")
    try await bench.export("disk0", isReadOnly: false)
    let (closed, tooEarly) = (Gate(), Gate())
    bench.engine.script { script in
      script.detach = { _ in
        usleep(30_000)
        closed.open()
      }
      script.work = { order, _ in
        if case .backUp = order, !closed.isOpen { tooEarly.open() }
      }
    }
    async let deletion = bench.service.deleteExport(.name("disk0"), .safe)
    try await eventually("the row is told") { try bench.service.image(.name("vm1")).state == .detached }
    #expect(try await bench.end(of: bench.backUp("vm1")).state == .succeeded)
    _ = try await deletion.done()
    #expect(closed.isOpen && !tooEarly.isOpen)
  }

  /// Exports, deletions of backups, attach and detach jobs, backups and checks at random, all at once.
  @Test func whateverHappensAtOnceEndsInLine() async throws {
    let seed = UInt64.random(in: 0 ... .max)
    print("seed \(seed)")
    var random = TestRandom(seed)
    let effort = ProcessInfo.processInfo.environment["TEST_EFFORT"].flatMap(Int.init) ?? 1
    for _ in 0..<(3 * effort) {
      let bench = try await ServiceBench { $0.concurrentJobs = 4 }
      let backup = try await bench.completeBackup()
      try await bench.image("vm2")
      bench.engine.script { script in
        script.work = { _, control in
          try await Task.sleep(for: .milliseconds(1))
          try await control.checkpoint()
        }
      }
      try await withThrowingTaskGroup(of: Void.self) { group in
        for number in 0..<60 {
          let choice = UInt.random(in: 0..<100, using: &random)
          group.addTask { await Self.act(bench, choice, number, backup) }
        }
        try await group.waitForAll()
      }
      for job in try bench.service.jobs(JobFilter(), PageRequest()).items { _ = try await bench.end(of: job) }
      try bench.expectInLine()
      try check(bench)
      for export in try bench.service.exports(ExportQuery(), PageRequest()).items {
        _ = try await bench.service.deleteExport(.id(export.export.id), .safe).done()
      }
      try bench.expectInLine("after the last export")
      #expect(bench.engine.servedExports.isEmpty)
      let kept = try bench.service.images(PageRequest()).items.filter { $0.attachment?.cause == .export }
      #expect(kept.isEmpty)
    }
  }

  /// Refusals are as good as successes here.
  private static func act(_ bench: ServiceBench, _ choice: UInt, _ number: Int, _ backup: Backup) async {
    let image: ResourceName = choice.isMultiple(of: 2) ? "vm1" : "vm2"
    guard let name = ResourceName("e\(number)"), let other = ResourceName("e\(number / 2)") else { return }
    let service = bench.service
    switch choice % 10 {
    case 0, 1: _ = try? await bench.export(name, of: image)
    case 2, 3: _ = try? await bench.export(name, of: image, isReadOnly: false)
    case 4: _ = try? await bench.export(name, of: backup)
    case 5, 6: _ = try? await service.deleteExport(.name(other), .safe)
    case 7: _ = try? await service.attachImage(.name(image))
    case 8: _ = try? await service.detachImage(.name(image))
    default:
      if number == 50 { _ = try? await service.deleteBackup(backup.id) }
      _ = try? await bench.backUp(image)
      _ = try? await service.checkImage(.name(image), repairsLeaks: true)
    }
  }

  /// What is exported is there, and no job failed by an image that was taken away from it while it ran.
  private func check(_ bench: ServiceBench) throws {
    for view in try bench.service.exports(ExportQuery(), PageRequest()).items {
      #expect(view.export.state == .active && view.activity != nil && view.imageName != nil)
    }
    for job in try bench.service.jobs(JobFilter(), PageRequest()).items where job.state != .succeeded {
      let fine: [ProblemCode] = [.imageInUse, .imageNotAttached, .exportInUse]
      #expect(job.state == .failed && fine.contains(job.error?.code ?? .internalError), "\(job)")
    }
  }
}
