import Foundation
import Model
import ModelTesting
import Orchestrator
import Testing

/// What a paused job leaves to others, and when it goes on.
@Suite struct PauseTests {
  private func bench(_ concurrentJobs: Int) async throws -> ServiceBench {
    let bench = try await ServiceBench {
      $0.concurrentJobs = concurrentJobs
      $0.pauseInterval = .milliseconds(5)
    }
    try await bench.repository()
    for name in ["a", "b", "c"] as [ResourceName] { try await bench.image(name) }
    return bench
  }

  @Test func pausedJobsLeaveTheirPlacesToOthers() async throws {
    let bench = try await bench(2)
    let gate = Gate()
    bench.engine.script { $0.hold(at: gate) }
    let paused = [try await bench.backUp("a"), try await bench.backUp("b")]
    try await gate.reached(by: 2)
    for job in paused { _ = try await bench.service.pauseJob(job.id) }
    let others = [try await bench.backUp("c", kind: .copy), try await bench.backUp("c", kind: .copy)]
    try await gate.reached(by: 4)
    // Both places are taken: what is resumed waits, and says for what.
    #expect(try await bench.service.resumeJob(paused[0].id).done().state == .queued)
    let waiting = try await bench.job(paused[0].id) { $0.waitingFor != nil }
    #expect(waiting.waitingFor == "a free place: 2 jobs run at a time")
    // It can be paused and resumed there, and cancelling it ends its work.
    #expect(try await bench.service.pauseJob(paused[0].id).done().state == .paused)
    #expect(try await bench.service.resumeJob(paused[0].id).done().state == .queued)
    #expect(try await bench.service.resumeJob(paused[1].id).done().state == .queued)
    #expect(try await bench.service.cancelJob(paused[1].id).done().state == .cancelling)
    #expect(try await bench.end(of: paused[1]).state == .cancelled)
    gate.open()
    for job in others + [paused[0]] { #expect(try await bench.end(of: job).state == .succeeded) }
  }

  @Test func resumedJobComesBeforeThoseThatHaveNotBegun() async throws {
    let bench = try await bench(1)
    let gate = Gate()
    bench.engine.script { $0.hold(at: gate) }
    let first = try await bench.backUp("a")
    try await gate.reached()
    _ = try await bench.service.pauseJob(first.id)
    let second = try await bench.backUp("b")
    try await gate.reached(by: 2)
    let third = try await bench.backUp("c")
    _ = try await bench.service.resumeJob(first.id)
    gate.open()
    for job in [first, second, third] { #expect(try await bench.end(of: job).state == .succeeded) }
    let starts = try bench.events().filter { $0.kind == .jobChanged && $0.payload["state"] == "running" }
    #expect(starts.map(\.subject) == [first, second, first, third].map(\.id.ulid))
  }

  @Test func jobThatWaitsOnlyForAPausedOneHoldsNothingUp() async throws {
    let bench = try await bench(4)
    let gate = Gate()
    bench.engine.script { $0.hold(at: gate) }
    let paused = try await bench.backUp("a")
    try await gate.reached()
    let rescan = try await bench.service.rescanRepository(.name("local")).done()
    let behind = try await bench.backUp("b")
    _ = try await bench.job(behind.id) { $0.waitingFor?.contains(rescan.id.description) == true }
    _ = try await bench.service.pauseJob(paused.id)
    // The backup goes past the rescan.
    try await gate.reached(by: 2)
    gate.open()
    #expect(try await bench.end(of: behind).state == .succeeded)
    let waiting = try await bench.job(rescan.id) { $0.waitingFor?.contains("is paused") == true }
    #expect(
      waiting.waitingFor
        == "the backup job \(paused.id), which uses repository 'local', and is paused: resume or cancel that one")
    _ = try await bench.service.resumeJob(paused.id)
    for job in [paused, rescan] { #expect(try await bench.end(of: job).state == .succeeded) }
  }

  @Test func pauseEndsByItselfInTime() async throws {
    let bench = try await bench(2)
    let gate = Gate()
    bench.engine.script { $0.hold(at: gate) }
    let jobs = [try await bench.backUp("a"), try await bench.backUp("b")]
    try await gate.reached(by: 2)
    let day = ManualClock.epoch + 24 * 60 * 60
    #expect(try await bench.service.pauseJob(jobs[0].id).done().pausedUntil == day)
    #expect(try await bench.service.pauseJob(jobs[1].id, .withoutEnd).done().pausedUntil == nil)
    let past = await expectRefusal(.invalidField) {
      try await bench.service.pauseJob(jobs[0].id, .until(ManualClock.epoch))
    }
    #expect(past?.faults.first?.part == .field(.until))
    let hour = ManualClock.epoch + 60 * 60
    #expect(try await bench.service.pauseJob(jobs[0].id, .until(hour)).done().pausedUntil == hour)
    // Once more without a word changes nothing.
    #expect(try await bench.service.pauseJob(jobs[0].id).done().pausedUntil == hour)
    gate.open()
    bench.clock.advance(bySeconds: 60 * 60 - 1)
    try await Task.sleep(for: .milliseconds(50))
    #expect(try bench.service.job(jobs[0].id).state == .paused)
    bench.clock.advance(bySeconds: 1)
    let ended = try await bench.end(of: jobs[0])
    #expect(ended.state == .succeeded && ended.pausedUntil == nil)
    #expect(try bench.service.job(jobs[1].id).state == .paused)
    _ = try await bench.service.resumeJob(jobs[1].id)
    #expect(try await bench.end(of: jobs[1]).state == .succeeded)
  }

  @Test func onlySoManyJobsArePaused() async throws {
    let bench = try await ServiceBench { $0.pausedJobs = 1 }
    try await bench.repository()
    for name in ["a", "b"] as [ResourceName] { try await bench.image(name) }
    let gate = Gate()
    bench.engine.script { $0.hold(at: gate) }
    let jobs = [try await bench.backUp("a"), try await bench.backUp("b")]
    try await gate.reached(by: 2)
    _ = try await bench.service.pauseJob(jobs[0].id)
    await expectRefusal(.jobNotPausable) { try await bench.service.pauseJob(jobs[1].id) }
    _ = try await bench.service.resumeJob(jobs[0].id)
    gate.open()
    for job in jobs { #expect(try await bench.end(of: job).state == .succeeded) }
  }
}
