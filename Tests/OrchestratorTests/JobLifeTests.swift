import Foundation
import Model
import ModelTesting
import Orchestrator
import Testing

@Suite struct JobLifeTests {
  /// A backup job held at a gate, running.
  private func heldJob(_ bench: ServiceBench, _ gate: Gate) async throws -> Job {
    bench.engine.script { $0.hold(at: gate) }
    try await bench.repository()
    try await bench.image("vm1")
    let job = try await bench.backUp("vm1")
    try await gate.reached()
    return try bench.service.job(job.id)
  }

  /// A job that waits behind one that runs.
  private func queuedJob(_ bench: ServiceBench, _ gate: Gate) async throws -> (running: Job, queued: Job) {
    let running = try await heldJob(bench, gate)
    let queued = try await bench.backUp("vm1")
    return (running, try await bench.job(queued.id) { $0.waitingFor != nil })
  }

  @Test func runningJobIsCancelledAtItsNextCheckpoint() async throws {
    let bench = try await ServiceBench()
    let gate = Gate()
    let running = try await heldJob(bench, gate)
    #expect(running.state == .running && running.startedAt != nil)
    let answered = try await bench.service.cancelJob(running.id).done()
    #expect(answered.state == .cancelling)
    let job = try await bench.end(of: running)
    #expect(job.state == .cancelled && job.error == nil && job.finishedAt != nil)
    let backup = try bench.service.backup(job.backups[0]).backup
    #expect(backup.state == .failed && backup.failure == "the job was cancelled")
    guard case .array(let items)? = job.result?["backups"] else { throw ExpectationFailure("no result") }
    #expect(items.map { $0["outcome"] } == ["cancelled"])
    let states = try bench.events().filter { $0.subject == job.id.ulid }.compactMap { $0.payload["state"] }
    #expect(states == ["queued", "running", "cancelling", "cancelled"])
  }

  @Test func queuedJobIsCancelledAtOnce() async throws {
    let bench = try await ServiceBench { $0.concurrentJobs = 1 }
    let gate = Gate()
    let (running, queued) = try await queuedJob(bench, gate)
    let cancelled = try await bench.service.cancelJob(queued.id).done()
    #expect(cancelled.state == .cancelled && cancelled.waitingFor == nil)
    #expect(try bench.service.backup(queued.backups[0]).backup.state == .failed)
    gate.open()
    #expect(try await bench.end(of: running).state == .succeeded)
    #expect(gate.arrivals == 1)
  }

  @Test func pausedJobStandsStillUntilResumed() async throws {
    let bench = try await ServiceBench()
    let gate = Gate()
    let running = try await heldJob(bench, gate)
    let paused = try await bench.service.pauseJob(running.id).done()
    #expect(paused.state == .paused)
    #expect(try await bench.service.pauseJob(running.id).done().revision == paused.revision)
    gate.open()
    #expect(try await bench.service.job(running.id, wait: .milliseconds(50))?.state == .paused)
    let resumed = try await bench.service.resumeJob(running.id).done()
    #expect(resumed.state == .queued)
    #expect(try await bench.end(of: running).state == .succeeded)
    let states = try bench.events().filter { $0.subject == running.id.ulid }.compactMap { $0.payload["state"] }
    #expect(states == ["queued", "running", "paused", "queued", "running", "succeeded"])
  }

  @Test func pausedJobCanBeCancelled() async throws {
    let bench = try await ServiceBench()
    let running = try await heldJob(bench, Gate())
    _ = try await bench.service.pauseJob(running.id)
    #expect(try await bench.service.cancelJob(running.id).done().state == .cancelling)
    #expect(try await bench.end(of: running).state == .cancelled)
  }

  @Test func cancellingTwiceIsTheSameAsOnce() async throws {
    let bench = try await ServiceBench()
    let gate = Gate()
    // Work that doesn't look up until the gate opens.
    bench.engine.script { script in
      script.work = { _, control in
        try await gate.pass()
        try await control.checkpoint()
      }
    }
    try await bench.repository()
    try await bench.image("vm1")
    let job = try await bench.backUp("vm1")
    try await gate.reached()
    let first = try await bench.service.cancelJob(job.id).done()
    #expect(try await bench.service.cancelJob(job.id).done().revision == first.revision)
    await expectRefusal(.jobNotPausable) { try await bench.service.pauseJob(job.id) }
    await expectRefusal(.jobNotPausable) { try await bench.service.resumeJob(job.id) }
    gate.open()
    #expect(try await bench.end(of: job).state == .cancelled)
  }

  @Test func workThatIsDoneBeforeItHearsOfTheCancelSucceeds() async throws {
    let bench = try await ServiceBench()
    let gate = Gate()
    bench.engine.script { $0.work = { _, _ in try await gate.pass() } }
    try await bench.repository()
    try await bench.image("vm1")
    let job = try await bench.backUp("vm1")
    try await gate.reached()
    _ = try await bench.service.cancelJob(job.id)
    gate.open()
    let ended = try await bench.end(of: job)
    #expect(ended.state == .succeeded)
    #expect(try bench.service.backup(job.backups[0]).backup.state == .complete)
  }

  @Test func cancelAmongSeveralImagesKeepsWhatIsComplete() async throws {
    let bench = try await ServiceBench()
    let gate = Gate()
    bench.engine.script { script in
      script.work = { order, control in
        if case .backUp(let order, _) = order, order.image.name == "b" { try await gate.pass(control) }
      }
    }
    try await bench.repository()
    for name in ["a", "b", "c"] as [ResourceName] { try await bench.image(name) }
    let asked = try await bench.backUp("a", "b", "c")
    try await gate.reached()
    // The first outcome is committed while the job still runs.
    #expect(try bench.service.backup(asked.backups[0]).backup.state == .complete)
    _ = try await bench.service.cancelJob(asked.id)
    let job = try await bench.end(of: asked)
    #expect(job.state == .cancelled)
    guard case .array(let items)? = job.result?["backups"] else { throw ExpectationFailure("no result") }
    #expect(items.map { $0["outcome"] } == ["complete", "cancelled", "cancelled"])
    #expect(try job.backups.map { try bench.service.backup($0).backup.state } == [.complete, .failed, .failed])
  }

  @Test func stepsThatAJobsStateDoesNotAllowAreRefused() async throws {
    let bench = try await ServiceBench { $0.concurrentJobs = 1 }
    let gate = Gate()
    let (running, queued) = try await queuedJob(bench, gate)
    await expectRefusal(.jobNotPausable) { try await bench.service.pauseJob(queued.id) }
    await expectRefusal(.jobNotPausable) { try await bench.service.resumeJob(queued.id) }
    gate.open()
    for job in [running, queued] {
      _ = try await bench.end(of: job)
      await expectRefusal(.jobFinished) { try await bench.service.cancelJob(job.id) }
      await expectRefusal(.jobFinished) { try await bench.service.pauseJob(job.id) }
      await expectRefusal(.jobFinished) { try await bench.service.resumeJob(job.id) }
    }
    await expectRefusal(.notFound) { try await bench.service.cancelJob(JobID()) }
    await expectRefusal(.notFound) { try bench.service.job(JobID()) }
  }

  @Test func deletionCannotBePaused() async throws {
    let bench = try await ServiceBench()
    let backup = try await bench.completeBackup()
    let gate = Gate()
    bench.engine.script { $0.hold(at: gate) }
    let job = try await bench.service.deleteBackup(backup.id).done()
    try await gate.reached()
    await expectRefusal(.jobNotPausable) { try await bench.service.pauseJob(job.id) }
    gate.open()
    _ = try await bench.end(of: job)
  }

  @Test func cancelOfAStaleRevisionIsRefused() async throws {
    let bench = try await ServiceBench()
    let gate = Gate()
    let running = try await heldJob(bench, gate)
    await expectRefusal(.preconditionFailed) {
      try await bench.service.cancelJob(running.id, ChangeConditions(expectedRevision: running.revision - 1))
    }
    _ = try await bench.service.cancelJob(running.id, ChangeConditions(expectedRevision: running.revision)).done()
    _ = try await bench.end(of: running)
  }

  @Test func failedJobKeepsItsCause() async throws {
    let bench = try await ServiceBench()
    try await bench.repository()
    try await bench.image("vm1")
    bench.engine.script { script in
      script.receipt = { _ in throw DomainError(.storageFull, "no space in /backup", remedy: "make room") }
    }
    let job = try await bench.end(of: bench.backUp("vm1"))
    #expect(job.state == .failed)
    #expect(job.error?.code == .storageFull && job.error?.remedy == "make room")
    struct Odd: Error {}
    bench.engine.script { $0.receipt = { _ in throw Odd() } }
    #expect(try await bench.end(of: bench.backUp("vm1")).error?.code == .internalError)
    // Nobody asked for it to stop.
    bench.engine.script { $0.receipt = { _ in throw CancellationError() } }
    let odd = try await bench.end(of: bench.backUp("vm1"))
    #expect(odd.state == .failed && odd.error?.code == .cancelled)
  }

  @Test func logIsKeptInOrderAndBounded() async throws {
    let bench = try await ServiceBench {
      $0.logLinesPerJob = 10
      $0.logLineLength = 20
    }
    bench.engine.script { script in
      script.work = { _, control in
        for number in 1...100 { control.log(.info, "line \(number) " + String(repeating: "x", count: 50)) }
      }
    }
    try await bench.repository()
    try await bench.image("vm1")
    let job = try await bench.end(of: bench.backUp("vm1"))
    let entries = try bench.service.jobLog(job.id, PageRequest()).items
    #expect(entries.map(\.sequence) == Array(1...10))
    #expect(entries.last?.level == .warning)
    #expect(entries[2].message.hasPrefix("line 1 x") && entries[2].message.utf8.count <= 23)
    await expectRefusal(.notFound) { try bench.service.jobLog(JobID(), PageRequest()) }
  }

  @Test func progressAndLogReachTheCatalogWhileTheJobRuns() async throws {
    let bench = try await ServiceBench()
    let gate = Gate()
    bench.engine.script { script in
      script.work = { _, control in
        control.report(done: 100, total: 1000)
        control.log(.info, "on the way")
        try await gate.pass(control)
      }
    }
    try await bench.repository()
    try await bench.image("vm1")
    let job = try await bench.backUp("vm1")
    try await gate.reached()
    try await eventually("progress and log are stored") {
      let stored = try bench.stored.read { try $0.job(job.id) }
      let lines = try bench.service.jobLog(job.id, PageRequest()).items
      return stored?.progress.done == 100 && lines.contains { $0.message == "on the way" }
    }
    #expect(try bench.service.job(job.id).progress.total == 1000)
    gate.open()
    _ = try await bench.end(of: job)
  }

  @Test func jobHasTheSpeedLimitOfItsRequest() async throws {
    let bench = try await ServiceBench()
    try await bench.repository()
    try await bench.image("vm1")
    bench.engine.script { $0.work = { _, control in control.log(.info, "limit \(control.speedLimit)") } }
    let draft = BackupDraft(images: [.name("vm1")], repository: .name("local"), speedLimit: 12_345)
    let job = try await bench.end(of: bench.service.createBackup(draft).done())
    #expect(try bench.service.jobLog(job.id, PageRequest()).items.contains { $0.message == "limit 12345" })
  }
}
