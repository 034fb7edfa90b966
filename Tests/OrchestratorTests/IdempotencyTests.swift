import Foundation
import Locks
import Model
import ModelTesting
import Orchestrator
import Testing

@Suite struct IdempotencyTests {
  private func conditions<Value: Sendable>(
    _ key: String, body: String = "hash", dryRun: Bool = false, _ text: @Sendable @escaping (Value) -> String
  ) -> ChangeConditions<Value> {
    ChangeConditions(
      dryRun: dryRun,
      idempotency: IdempotencyGuard(
        key: IdempotencyKey(who: "local", route: "POST /test", key: key), bodyHash: body
      ) { KeptAnswer(text($0)) })
  }

  private func backUp(_ bench: ServiceBench, _ conditions: ChangeConditions<Job>) async throws -> Answer<Job> {
    try await bench.service.createBackup(
      BackupDraft(images: [.name("vm1")], repository: .name("local")), conditions)
  }

  private func prepared(_ bench: ServiceBench) async throws {
    try await bench.repository()
    try await bench.image("vm1")
  }

  @Test func repeatGetsTheStoredAnswerAndMakesNothing() async throws {
    let bench = try await ServiceBench()
    try await prepared(bench)
    let conditions: ChangeConditions<Job> = conditions("k") { $0.id.description }
    let job = try await backUp(bench, conditions).done()
    _ = try await bench.end(of: job)
    let answer = try await backUp(bench, conditions).repeated()
    #expect(answer == KeptAnswer(job.id.description))
    #expect(try bench.service.jobs(JobFilter(), PageRequest()).items.count == 1)
  }

  @Test func repeatIsAnsweredThoughItsOwnEffectWouldRefuseIt() async throws {
    let bench = try await ServiceBench()
    let conditions: ChangeConditions<Image> = conditions("k") { $0.id.description }
    let draft = ImageDraft(name: "vm1", source: .file(path: "/images/a"), format: .raw)
    let image = try await bench.service.registerImage(draft, conditions).done()
    #expect(try await bench.service.registerImage(draft, conditions).repeated().text == image.id.description)
    await expectRefusal(.nameTaken) { try await bench.service.registerImage(draft) }
  }

  @Test func otherBodyUnderTheSameKeyIsRefused() async throws {
    let bench = try await ServiceBench()
    try await prepared(bench)
    _ = try await backUp(bench, conditions("k", body: "one") { _ in "" })
    await expectRefusal(.idempotencyKeyReused) { try await backUp(bench, conditions("k", body: "two") { _ in "" }) }
    _ = try await backUp(bench, conditions("other", body: "two") { _ in "" }).done()
  }

  @Test func sameKeyInFlightIsRefused() async throws {
    let bench = try await ServiceBench()
    let mayLeave = Lock(false)
    bench.engine.script { script in
      script.inspect = { location in
        // Blocks this one call; the other requests are refused before they come here.
        Self.blockUntil(mayLeave)
        return ImageInspection(format: location.format, virtualSize: 1, storedSize: 1)
      }
    }
    let draft = ImageDraft(name: "vm1", source: .file(path: "/images/a"), format: .raw)
    let conditions: ChangeConditions<Image> = conditions("k") { $0.id.description }
    let first = Task { try await bench.service.registerImage(draft, conditions) }
    try await eventually("the first request is being worked on") {
      bench.engine.orders.contains { if case .inspect = $0 { true } else { false } }
    }
    await expectRefusal(.idempotencyKeyInFlight) { try await bench.service.registerImage(draft, conditions) }
    await expectRefusal(.idempotencyKeyReused) {
      try await bench.service.registerImage(draft, self.conditions("k", body: "other") { _ in "" })
    }
    mayLeave.withLock { $0 = true }
    let image = try await first.value.done()
    #expect(try await bench.service.registerImage(draft, conditions).repeated().text == image.id.description)
  }

  /// Holds the thread until it may go on, for a bounded time.
  private static func blockUntil(_ mayLeave: Lock<Bool>) {
    let deadline = ContinuousClock.now + ServiceBench.timeout
    while !mayLeave.withLock({ $0 }), ContinuousClock.now < deadline { Thread.sleep(forTimeInterval: 0.001) }
  }

  @Test func racingRequestsMakeOneJob() async throws {
    let bench = try await ServiceBench()
    try await prepared(bench)
    let conditions: ChangeConditions<Job> = conditions("k") { $0.id.description }
    let bodies = try await withThrowingTaskGroup(of: String?.self) { group in
      for _ in 0..<50 {
        group.addTask {
          do {
            return switch try await backUp(bench, conditions) {
            case .done(let job): job.id.description
            case .repeated(let answer): answer.text
            case .planned: nil
            }
          } catch let error as DomainError where error.code == .idempotencyKeyInFlight {
            return nil
          }
        }
      }
      return try await group.reduce(into: Set<String>()) { bodies, body in
        if let body { bodies.insert(body) }
      }
    }
    #expect(bodies.count == 1)
    #expect(try bench.service.jobs(JobFilter(), PageRequest()).items.count == 1)
  }

  @Test func refusedRequestIsNotRemembered() async throws {
    let bench = try await ServiceBench()
    let conditions: ChangeConditions<Job> = conditions("k") { _ in "" }
    await expectRefusal(.notFound) { try await backUp(bench, conditions) }
    try await prepared(bench)
    _ = try await backUp(bench, conditions).done()
  }

  @Test func answerIsForgottenAfterADay() async throws {
    let bench = try await ServiceBench()
    try await prepared(bench)
    let conditions: ChangeConditions<Job> = conditions("k") { $0.id.description }
    let first = try await backUp(bench, conditions).done()
    bench.clock.advance(bySeconds: 24 * 60 * 60)
    #expect(try await backUp(bench, conditions).repeated().text == first.id.description)
    bench.clock.advance(bySeconds: 1)
    let second = try await backUp(bench, conditions).done()
    #expect(second.id != first.id)
  }

  @Test func dryRunNeitherRemembersNorRepeats() async throws {
    let bench = try await ServiceBench()
    try await prepared(bench)
    _ = try await backUp(bench, conditions("k", dryRun: true) { _ in "" }).planned()
    _ = try await backUp(bench, conditions("k") { _ in "" }).done()
    _ = try await backUp(bench, conditions("k", dryRun: true) { _ in "" }).planned()
  }

  @Test func recordCommitsWithTheChangeOrNotAtAll() async throws {
    let bench = try await ServiceBench()
    try await prepared(bench)
    let conditions: ChangeConditions<Job> = conditions("k") { $0.id.description }
    bench.catalog.writeFault = FaultyCatalog.Fault(atCall: 1, effect: .atCommit)
    await expectRefusal(.storageFull) { try await backUp(bench, conditions) }
    bench.catalog.writeFault = nil
    #expect(try bench.service.jobs(JobFilter(), PageRequest()).items.isEmpty)
    _ = try await backUp(bench, conditions).done()
    // An answer that can't be made takes the change along.
    struct Unrenderable: Error {}
    let key = IdempotencyKey(who: "local", route: "POST /test", key: "bad")
    let bad = ChangeConditions<Job>(
      idempotency: IdempotencyGuard(key: key, bodyHash: "h") { _ in throw Unrenderable() })
    await #expect(throws: Unrenderable.self) { try await backUp(bench, bad) }
    #expect(try bench.service.jobs(JobFilter(), PageRequest()).items.count == 1)
  }

  @Test func stepsOfAJobAreGuardedToo() async throws {
    let bench = try await ServiceBench()
    let gate = Gate()
    bench.engine.script { $0.hold(at: gate) }
    try await prepared(bench)
    let job = try await backUp(bench, ChangeConditions()).done()
    try await gate.reached()
    let conditions: ChangeConditions<Job> = conditions("cancel") { $0.state.rawValue }
    #expect(try await bench.service.cancelJob(job.id, conditions).done().state == .cancelling)
    _ = try await bench.end(of: job)
    #expect(try await bench.service.cancelJob(job.id, conditions).repeated().text == "cancelling")
  }
}
