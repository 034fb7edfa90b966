import Foundation
import Model
import ModelTesting
import Testing

@testable import Orchestrator

@Suite struct LiveJobTests {
  private func live(_ adjust: (inout ServiceLimits) -> Void = { _ in }) -> LiveJob {
    var limits = ServiceLimits()
    adjust(&limits)
    return LiveJob(Job.sample(), legs: [100, 300], time: ManualClock(), limits: limits)
  }

  @Test func laterOrderStandsInWhateverOrderTheyArrive() async throws {
    let live = live()
    live.setPaused(false, revision: 5)
    live.setPaused(true, revision: 4)
    try await live.checkpoint()
  }

  @Test func stopWakesWhoWaitsAndStays() async throws {
    let live = live()
    live.setPaused(true, revision: 2)
    let worker = Task { try await live.checkpoint() }
    try await Task.sleep(for: .milliseconds(5))
    live.stop(.stopping)
    live.stop(.cancelled)
    await #expect(throws: CancellationError.self) { try await worker.value }
    live.setPaused(false, revision: 3)
    await #expect(throws: CancellationError.self) { try await live.checkpoint() }
    guard case .stopping? = live.stopReason else { throw ExpectationFailure("the first reason stands") }
  }

  @Test func cancelledTaskLeavesThePauseAndOthersStay() async throws {
    let live = live()
    live.setPaused(true, revision: 2)
    let leaver = Task { try await live.checkpoint() }
    let stayer = Task { try await live.checkpoint() }
    try await Task.sleep(for: .milliseconds(5))
    leaver.cancel()
    await #expect(throws: CancellationError.self) { try await leaver.value }
    live.setPaused(false, revision: 3)
    try await stayer.value
  }

  @Test func legsAddUp() {
    var meter = ProgressMeter(legs: [100, 300])
    meter.report(done: 50, total: 100)
    #expect(meter.progress.done == 50 && meter.progress.total == 400)
    // The first leg turns out longer than thought.
    meter.report(done: 150, total: 200)
    #expect(meter.progress.total == 500)
    meter.finishLeg(whole: true)
    #expect(meter.progress.done == 200)
    meter.report(done: 900, total: 300)
    #expect(meter.progress.done == 500)
    meter.finishLeg(whole: true)
    meter.report(done: 1, total: 1)
    #expect(meter.progress.done == 500 && meter.progress.total == 500)
  }

  @Test func rateAndTimeToGoFollowTheWork() {
    var meter = ProgressMeter(legs: [1000])
    let start = ContinuousClock.now
    _ = meter.sample(at: start)
    meter.report(done: 100, total: 1000)
    let first = meter.sample(at: start + .seconds(1))
    #expect(first?.rate == 100 && first?.eta == 9)
    let unchanged = meter.sample(at: start + .seconds(1))
    #expect(unchanged == nil)
    meter.report(done: 400, total: 1000)
    let second = meter.sample(at: start + .seconds(2))
    #expect(second?.rate == 160)
    meter.rest()
    #expect(meter.progress.rate == 0 && meter.progress.eta == nil)
  }

  @Test func signalWakesAtRaiseDeadlineCloseAndCancel() async throws {
    let signal = ChangeSignal()
    let raised = Task { await signal.wait(beyond: 0) }
    signal.raise()
    await raised.value
    await signal.wait(beyond: 0)
    await signal.wait(beyond: 1, until: .now + .milliseconds(5), by: SystemTime())
    let cancelled = Task { await signal.wait(beyond: 1) }
    cancelled.cancel()
    await cancelled.value
    let closed = Task { await signal.wait(beyond: 1) }
    try await Task.sleep(for: .milliseconds(2))
    signal.close()
    await closed.value
    await signal.wait(beyond: 1)
  }

  @Test func pathsAreComparedBySpelling() {
    #expect(comparablePath("/a//b/./c/") == "/a/b/c")
    #expect(comparablePath("/a/../b") == "/a/../b")
  }
}
