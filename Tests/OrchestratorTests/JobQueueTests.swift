import Foundation
import Model
import ModelTesting
import Orchestrator
import Testing

@Suite struct JobQueueTests {
  /// Two complete backups of "vm1", each a chain of its own.
  private func twoBackups(_ bench: ServiceBench) async throws -> (Backup, Backup) {
    let first = try await bench.completeBackup()
    let job = try await bench.end(of: bench.backUp("vm1"))
    return (first, try bench.service.backup(job.backups[0]).backup)
  }

  @Test func onlySoManyJobsRunAtATime() async throws {
    let bench = try await ServiceBench()
    let gate = Gate()
    bench.engine.script { $0.hold(at: gate) }
    try await bench.repository()
    try await bench.image("vm1")
    var jobs: [Job] = []
    for _ in 1...4 { jobs.append(try await bench.backUp("vm1", kind: .copy)) }
    try await gate.reached(by: 2)
    for job in jobs[2...] {
      let waiting = try await bench.job(job.id) { $0.waitingFor != nil }
      #expect(waiting.state == .queued && waiting.waitingFor == "a free place: 2 jobs run at a time")
    }
    #expect(gate.arrivals == 2)
    gate.open()
    for job in jobs {
      let ended = try await bench.end(of: job)
      #expect(ended.state == .succeeded && ended.waitingFor == nil)
    }
  }

  @Test func fullQueueRefusesAndTakesAgain() async throws {
    let bench = try await ServiceBench {
      $0.concurrentJobs = 1
      $0.queuedJobs = 2
    }
    let gate = Gate()
    bench.engine.script { $0.hold(at: gate) }
    try await bench.repository()
    try await bench.image("vm1")
    let running = try await bench.backUp("vm1")
    try await gate.reached()
    let waiting = [try await bench.backUp("vm1"), try await bench.backUp("vm1")]
    let before = try bench.events().count
    await expectRefusal(.queueFull) { try await bench.backUp("vm1") }
    #expect(try bench.service.jobs(JobFilter(), PageRequest()).items.count == 3)
    #expect(try bench.events().count >= before)
    // A refused request gives its place back too.
    await expectRefusal(.queueFull) { try await bench.backUp("vm1") }
    _ = try await bench.service.cancelJob(waiting[0].id)
    await expectRefusal(.notFound) { try await bench.backUp("nobody") }
    let late = try await bench.backUp("vm1")
    gate.open()
    for job in [running, waiting[1], late] { #expect(try await bench.end(of: job).state == .succeeded) }
  }

  @Test func restoreOverAnImageHasItToItself() async throws {
    let bench = try await ServiceBench { $0.concurrentJobs = 8 }
    let backup = try await bench.completeBackup()
    try await bench.image("vm2")
    let gate = Gate()
    bench.engine.script { $0.hold(at: gate) }
    let restore = try await bench.service.restoreBackup(backup.id, to: .image(.name("vm1"), confirm: "vm1")).done()
    try await gate.reached()
    let blocked = try await bench.backUp("vm1")
    let free = try await bench.backUp("vm2")
    try await gate.reached(by: 2)
    let waiting = try await bench.job(blocked.id) { $0.waitingFor != nil }
    #expect(waiting.waitingFor == "the restore job \(restore.id), which has image 'vm1' to itself")
    #expect(try bench.service.job(free.id).state == .running)
    gate.open()
    for job in [restore, blocked, free] { #expect(try await bench.end(of: job).state == .succeeded) }
  }

  @Test func deletionExcludesReadersOfItsChainOnly() async throws {
    let bench = try await ServiceBench { $0.concurrentJobs = 8 }
    let (first, second) = try await twoBackups(bench)
    let gate = Gate()
    bench.engine.script { $0.hold(at: gate) }
    let verify = try await bench.service.verifyBackup(first.id, level: .metadata).done()
    let also = try await bench.service.verifyBackup(first.id, level: .checksum).done()
    try await gate.reached(by: 2)
    let deletion = try await bench.service.deleteBackup(first.id).done()
    let other = try await bench.service.deleteBackup(second.id).done()
    try await gate.reached(by: 3)
    let waiting = try await bench.job(deletion.id) { $0.waitingFor != nil }
    #expect(waiting.waitingFor?.hasPrefix("the verify job ") == true)
    #expect(waiting.waitingFor?.hasSuffix(", which uses chain \(first.chain)") == true)
    gate.open()
    for job in [verify, also, deletion, other] { #expect(try await bench.end(of: job).state == .succeeded) }
  }

  @Test func readerDoesNotOvertakeAWaitingWriter() async throws {
    let bench = try await ServiceBench { $0.concurrentJobs = 8 }
    let (backup, _) = try await twoBackups(bench)
    let gate = Gate()
    bench.engine.script { $0.hold(at: gate) }
    let verify = try await bench.service.verifyBackup(backup.id, level: .metadata).done()
    try await gate.reached()
    let deletion = try await bench.service.deleteBackup(backup.id).done()
    let late = try await bench.service.verifyBackup(backup.id, level: .metadata).done()
    let waiting = try await bench.job(late.id) { $0.waitingFor != nil }
    #expect(waiting.waitingFor == "the delete-backup job \(deletion.id), which has chain \(backup.chain) to itself")
    gate.open()
    #expect(try await bench.end(of: verify).state == .succeeded)
    #expect(try await bench.end(of: deletion).state == .succeeded)
    // What it was to read is gone by now.
    let failed = try await bench.end(of: late)
    #expect(failed.state == .failed && failed.error?.code == .notFound)
  }

  @Test func wordsFollowWhatStandsInTheWay() async throws {
    let bench = try await ServiceBench { $0.concurrentJobs = 1 }
    let backup = try await bench.completeBackup()
    try await bench.image("vm2")
    let gate = Gate()
    bench.engine.script { $0.hold(at: gate) }
    let running = try await bench.backUp("vm2")
    try await gate.reached()
    let restore = try await bench.service.restoreBackup(backup.id, to: .image(.name("vm1"), confirm: "vm1")).done()
    let last = try await bench.backUp("vm1")
    _ = try await bench.job(last.id) { $0.waitingFor?.contains(restore.id.description) == true }
    _ = try await bench.service.cancelJob(restore.id)
    _ = try await bench.job(last.id) { $0.waitingFor?.contains("a free place") == true }
    gate.open()
    for job in [running, last] { #expect(try await bench.end(of: job).state == .succeeded) }
  }

  @Test func rescanHasItsRepositoryToItself() async throws {
    let bench = try await ServiceBench { $0.concurrentJobs = 8 }
    try await bench.repository()
    try await bench.image("vm1")
    let gate = Gate()
    bench.engine.script { $0.hold(at: gate) }
    let backup = try await bench.backUp("vm1")
    try await gate.reached()
    let rescan = try await bench.service.rescanRepository(.name("local")).done()
    _ = try await bench.job(rescan.id) { $0.waitingFor?.contains("repository 'local'") == true }
    gate.open()
    for job in [backup, rescan] { #expect(try await bench.end(of: job).state == .succeeded) }
  }

  @Test func manyJobsWithRandomCancelsAllEndAndNothingStaysBehind() async throws {
    let seed = UInt64.random(in: 0 ... .max)
    print("seed \(seed)")
    var random = TestRandom(seed)
    let bench = try await ServiceBench { $0.concurrentJobs = 3 }
    try await bench.repository()
    let names: [ResourceName] = ["a", "b", "c"]
    for name in names { try await bench.image(name) }
    bench.engine.script { script in
      script.work = { _, control in
        for _ in 0..<3 {
          try await Task.sleep(for: .milliseconds(1))
          try await control.checkpoint()
        }
      }
    }
    var jobs: [Job] = []
    for _ in 0..<60 {
      jobs.append(try await bench.backUp(names.randomElement(using: &random) ?? "a"))
      let victim = jobs.randomElement(using: &random) ?? jobs[0]
      switch UInt.random(in: 0..<6, using: &random) {
      case 0: _ = try? await bench.service.cancelJob(victim.id)
      case 1: _ = try? await bench.service.pauseJob(victim.id)
      default: break
      }
    }
    for job in jobs { _ = try? await bench.service.resumeJob(job.id) }
    for job in jobs {
      let ended = try await bench.end(of: job)
      let backup = try bench.service.backup(job.backups[0]).backup
      #expect(ended.state == .succeeded || ended.state == .cancelled)
      #expect((ended.state == .succeeded) == (backup.state == .complete))
    }
    try checkSteps(try bench.events())
  }

  /// Every job's events tell steps that a job's life has.
  private func checkSteps(_ events: [Event]) throws {
    var states: [ULID: JobState] = [:]
    for event in events where event.kind == .jobCreated || event.kind == .jobChanged {
      guard case .string(let text)? = event.payload["state"], let state = JobState(rawValue: text) else {
        throw ExpectationFailure("an event without a state: \(event)")
      }
      if let before = states[event.subject], before != state || state != .queued {
        #expect(before.allows(state), "\(before) → \(state)")
      }
      states[event.subject] = state
    }
    #expect(!states.values.contains { !$0.isEnded })
  }
}

/// SplitMix64, so that a printed seed repeats a run.
struct TestRandom: RandomNumberGenerator {
  private var state: UInt64

  init(_ seed: UInt64) { state = seed }

  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var z = state
    z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
    return z ^ (z >> 31)
  }
}
