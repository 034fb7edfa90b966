import Foundation
import Model
import ModelTesting
import Orchestrator
import Testing

@Suite struct StopTests {
  @Test func stopInterruptsWhatRunsAndWhatWaits() async throws {
    let bench = try await ServiceBench { $0.concurrentJobs = 1 }
    let gate = Gate()
    bench.engine.script { $0.hold(at: gate) }
    try await bench.repository()
    try await bench.image("vm1")
    let running = try await bench.backUp("vm1")
    try await gate.reached()
    let queued = try await bench.backUp("vm1")
    await bench.service.stop(grace: ServiceBench.timeout)
    for job in [running, queued] {
      let ended = try bench.service.job(job.id)
      #expect(ended.state == .interrupted && ended.error?.code == .interrupted && ended.finishedAt != nil)
      #expect(try bench.service.backup(job.backups[0]).backup.state == .failed)
    }
    await expectRefusal(.stopping) { try await bench.backUp("vm1") }
  }

  @Test func stopInterruptsAPausedJob() async throws {
    let bench = try await ServiceBench()
    let gate = Gate()
    bench.engine.script { $0.hold(at: gate) }
    try await bench.repository()
    try await bench.image("vm1")
    let job = try await bench.backUp("vm1")
    try await gate.reached()
    _ = try await bench.service.pauseJob(job.id)
    await bench.service.stop(grace: ServiceBench.timeout)
    #expect(try bench.service.job(job.id).state == .interrupted)
  }

  @Test func jobThatDoesNotHearIsInterruptedAfterTheGraceAndItsTruthIsFoundOutLater() async throws {
    let stored = InMemoryCatalog()
    let engine = ScriptedEngine()
    let bench = try await ServiceBench(catalog: stored, engine: engine)
    let gate = Gate()
    engine.script { $0.work = { _, _ in try await gate.pass() } }
    try await bench.repository()
    try await bench.image("vm1")
    let job = try await bench.backUp("vm1")
    try await gate.reached()
    await bench.service.stop(grace: .milliseconds(20))
    #expect(try bench.service.job(job.id).state == .interrupted)
    #expect(try bench.service.backup(job.backups[0]).backup.state == .running)
    gate.open()
    // The work ends after all; the job stays as it was told, the backup is what it is.
    try await eventually("the backup's end is written") {
      try bench.service.backup(job.backups[0]).backup.state == .complete
    }
    #expect(try bench.service.job(job.id).state == .interrupted)
  }

  @Test func stopWithNothingToDoReturnsAtOnce() async throws {
    let bench = try await ServiceBench()
    let start = ContinuousClock.now
    await bench.service.stop(grace: .seconds(60))
    #expect(ContinuousClock.now - start < .seconds(30))
  }
}
