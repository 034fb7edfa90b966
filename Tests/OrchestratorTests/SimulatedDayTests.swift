import Foundation
import Locks
import Logging
import Model
import ModelTesting
import Testing

@testable import Orchestrator

/// All that the service waits for goes by one source of time, so that a whole day passes in a moment.
struct SimulatedDayTests {
  private let time = SimulatedTime()
  private let engine = ScriptedEngine()
  private let service: BackupService

  /// How long the work on one image takes, and how many steps it has.
  private static let workLength = Duration.seconds(20 * 60)
  private static let steps = 20

  init() async throws {
    var limits = ServiceLimits()
    (limits.tickInterval, limits.storeInterval, limits.pauseInterval) = (.seconds(60), .seconds(300), .seconds(60))
    var logger = Logger(label: "test")
    logger.logLevel = .critical
    service = BackupService(catalog: InMemoryCatalog(), engine: engine, time: time, logger: logger, limits: limits)
    engine.script { [time] script in
      script.work = { _, control in
        for step in 1...Self.steps {
          try await control.checkpoint()
          try await time.sleep(for: Self.workLength / Self.steps)
          control.report(done: UInt64(step), total: UInt64(Self.steps))
        }
      }
    }
    try await service.start()
    _ = try await service.createRepository(RepositoryDraft(name: "local", path: "/backup/local"))
    _ = try await service.registerImage(ImageDraft(name: "vm1", source: .file(path: "/images/vm1"), format: .raw))
  }

  @Test func aDayOfHourlyBackupsPassesInAMoment() async throws {
    let real = ContinuousClock.now
    var jobs: [JobID] = []
    for hour in 0..<24 {
      let job = try await submit()
      jobs.append(job)
      if hour == 5 {
        // In the middle of its work, for two hours and a half; it gives up its place, so that the next ones run.
        try await time.pass(.seconds(10 * 60))
        let end = time.now() + 2.5 * 3600
        guard case .done = try await service.pauseJob(job, .until(end)) else {
          Issue.record("the pause was told as something else")
          return
        }
        try await time.pass(.seconds(50 * 60))
      } else {
        try await time.pass(.seconds(60 * 60))
      }
    }
    let isOver = try await time.pass(atMost: .seconds(12 * 3600)) {
      try jobs.allSatisfy { try service.job($0).state.isEnded }
    }
    #expect(isOver)
    let ended = try jobs.map { try service.job($0) }
    #expect(ended.map(\.state) == Array(repeating: .succeeded, count: 24))
    for (hour, job) in ended.enumerated() {
      let began = try #require(job.startedAt).timeIntervalSince(ManualClock.epoch)
      let length = try #require(job.finishedAt).timeIntervalSince(ManualClock.epoch) - began
      // A busy machine lets more time pass here than the work takes, never less. The step at hand ends in the pause.
      #expect(began >= Double(hour) * 3600, "hour \(hour)")
      #expect(length >= (hour == 5 ? 2.5 * 3600 + 1200 - 60 : 1200), "hour \(hour): \(length)")
    }
    #expect(ContinuousClock.now - real < .seconds(120))
  }

  @Test func aWaitingRequestIsAnsweredWhenItsTimeIsUp() async throws {
    let job = try await submit()
    let isAnswered = Lock(false)
    let answer = Task { [service] in
      defer { isAnswered.withLock { $0 = true } }
      return try await service.job(job, wait: .seconds(60))
    }
    // A busy machine may let the request begin to wait late, or be answered late: still before the job's end.
    #expect(try await time.pass(atMost: Self.workLength / 2) { isAnswered.withLock { $0 } })
    #expect(try await answer.value?.state == .running)
    #expect(time.passed >= .seconds(60))
    await service.stop(grace: .zero)
  }

  /// An answer is kept under its idempotency key for a day, and no longer.
  @Test func anAnswerIsRepeatedForADay() async throws {
    let conditions = ChangeConditions<Job>(
      idempotency: IdempotencyGuard(
        key: IdempotencyKey(who: "me", route: "POST /backups", key: "1"), bodyHash: "x"
      ) { job in KeptAnswer(job.id.description) })
    let draft = BackupDraft(images: [.name("vm1")], repository: .name("local"))
    guard case .done(let first) = try await service.createBackup(draft, conditions) else {
      Issue.record("the first request was answered as a repeat")
      return
    }
    try await time.pass(.seconds(24 * 3600 - 1))
    guard case .repeated(let again) = try await service.createBackup(draft, conditions) else {
      Issue.record("the second request wasn't answered as a repeat")
      return
    }
    #expect(again.text == first.id.description)
    try await time.pass(.seconds(2))
    guard case .done(let second) = try await service.createBackup(draft, conditions) else {
      Issue.record("the third request was answered as a repeat")
      return
    }
    #expect(second.id != first.id)
  }

  private func submit() async throws -> JobID {
    let draft = BackupDraft(images: [.name("vm1")], repository: .name("local"), kind: .copy)
    guard case .done(let job) = try await service.createBackup(draft) else {
      throw DomainError(.internalError, "a job was told as something else")
    }
    return job.id
  }
}
