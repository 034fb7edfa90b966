import Foundation
import Model
import ModelTesting
import Orchestrator
import Testing

@Suite struct JobWaitTests {
  private func heldJob(_ bench: ServiceBench, _ gate: Gate) async throws -> Job {
    bench.engine.script { $0.hold(at: gate) }
    try await bench.repository()
    try await bench.image("vm1")
    let job = try await bench.backUp("vm1")
    try await gate.reached()
    return try bench.service.job(job.id)
  }

  @Test func waitEndsWithTheJob() async throws {
    let bench = try await ServiceBench()
    let gate = Gate()
    let job = try await heldJob(bench, gate)
    async let waited = bench.service.job(job.id, wait: ServiceBench.timeout)
    try await Task.sleep(for: .milliseconds(10))
    gate.open()
    #expect(try await waited?.state == .succeeded)
  }

  @Test func waitEndsWhenTimeIsUpWithTheJobAsItIs() async throws {
    let bench = try await ServiceBench()
    let gate = Gate()
    let job = try await heldJob(bench, gate)
    #expect(try await bench.service.job(job.id, wait: .milliseconds(20))?.state == .running)
    #expect(try await bench.service.job(job.id, wait: .zero)?.state == .running)
    gate.open()
    _ = try await bench.end(of: job)
  }

  @Test func waitIsNeverLongerThanTheLimit() async throws {
    let bench = try await ServiceBench { $0.longestWait = .milliseconds(20) }
    let gate = Gate()
    let job = try await heldJob(bench, gate)
    #expect(try await bench.service.job(job.id, wait: .seconds(1000))?.state == .running)
    gate.open()
    try await eventually("it ends") { try bench.service.job(job.id).state.isEnded }
  }

  @Test func waitWithAKnownRevisionEndsAtAnyChange() async throws {
    let bench = try await ServiceBench()
    let gate = Gate()
    let job = try await heldJob(bench, gate)
    #expect(
      try await bench.service.job(job.id, wait: .milliseconds(20), knownRevision: job.revision) == nil)
    #expect(
      try await bench.service.job(job.id, wait: .seconds(1000), knownRevision: job.revision - 1)?.state == .running)
    async let waited = bench.service.job(job.id, wait: ServiceBench.timeout, knownRevision: job.revision)
    try await Task.sleep(for: .milliseconds(10))
    _ = try await bench.service.pauseJob(job.id)
    #expect(try await waited?.state == .paused)
    _ = try await bench.service.cancelJob(job.id)
    let ended = try await bench.end(of: job)
    // It can't change any more: no need to wait.
    #expect(try await bench.service.job(job.id, wait: .seconds(1000), knownRevision: ended.revision) == nil)
  }

  @Test func cancelledWaiterLeavesAtOnce() async throws {
    let bench = try await ServiceBench()
    let gate = Gate()
    let job = try await heldJob(bench, gate)
    let waiter = Task { try await bench.service.job(job.id, wait: .seconds(60)) }
    try await Task.sleep(for: .milliseconds(10))
    waiter.cancel()
    #expect(try await waiter.value?.state == .running)
    gate.open()
    _ = try await bench.end(of: job)
  }

  @Test func manyWaitersAreAllTold() async throws {
    let bench = try await ServiceBench()
    let gate = Gate()
    let job = try await heldJob(bench, gate)
    try await withThrowingTaskGroup(of: JobState?.self) { group in
      for _ in 0..<200 {
        group.addTask { try await bench.service.job(job.id, wait: ServiceBench.timeout)?.state }
      }
      gate.open()
      for try await state in group { #expect(state == .succeeded) }
    }
  }
}
