import Foundation
import Model
import ModelTesting
import Orchestrator
import Testing

@Suite struct CatalogFailureTests {
  @Test(arguments: [FaultyCatalog.Effect.beforeBody, .atCommit])
  func changeThatDoesNotCommitLeavesNothingAndTellsNobody(effect: FaultyCatalog.Effect) async throws {
    let bench = try await ServiceBench()
    try await bench.repository()
    try await bench.image("vm1")
    let before = try bench.events()
    let stream = try bench.service.events()
    bench.catalog.writeFault = FaultyCatalog.Fault(atCall: 1, effect: effect, fromThenOn: true)
    await expectRefusal(.storageFull) { try await bench.image("vm2") }
    await expectRefusal(.storageFull) {
      try await bench.service.changeImage(.name("vm1"), ImageChange(name: "other"))
    }
    await expectRefusal(.storageFull) { try await bench.service.unregisterImage(.name("vm1")) }
    await expectRefusal(.storageFull) { try await bench.backUp("vm1") }
    bench.catalog.writeFault = nil
    #expect(try bench.events() == before)
    #expect(try bench.service.images(PageRequest()).items.map(\.name) == ["vm1"])
    #expect(try bench.service.backups(BackupQuery(), PageRequest()).items.isEmpty)
    #expect(!bench.engine.orders.contains { if case .backUp = $0 { true } else { false } })
    // The place in the queue was given back, and the listener hears the next change only.
    let job = try await bench.end(of: bench.backUp("vm1"))
    #expect(job.state == .succeeded)
    guard case .event(let event)? = await stream.next() else { throw ExpectationFailure("no event") }
    #expect(event.id == Int64(before.count) + 1 && event.job == job.id)
  }

  @Test func jobWhoseCommitWasToldAsAFailureRunsAllTheSame() async throws {
    let bench = try await ServiceBench()
    try await bench.repository()
    try await bench.image("vm1")
    bench.catalog.writeFault = FaultyCatalog.Fault(atCall: 1, effect: .answerLost)
    let job = try await bench.backUp("vm1")
    bench.catalog.writeFault = nil
    #expect(try await bench.end(of: job).state == .succeeded)
  }

  /// With one failing write at each place in a job's life, in each way: the job ends as its work did.
  @Test(arguments: FaultyCatalog.Effect.allCases)
  func oneFailingWriteAnywhereDoesNotChangeHowAJobEnds(effect: FaultyCatalog.Effect) async throws {
    for call in 2...6 {
      let bench = try await ServiceBench()
      try await bench.repository()
      for name in ["a", "b"] as [ResourceName] { try await bench.image(name) }
      bench.engine.script { script in
        script.work = { _, control in control.log(.info, "working") }
      }
      // Call 1 is the request's own.
      bench.catalog.writeFault = FaultyCatalog.Fault(atCall: call, effect: effect)
      let job = try await bench.end(of: bench.backUp("a", "b"))
      #expect(job.state == .succeeded, "call \(call)")
      for id in job.backups { #expect(try bench.service.backup(id).backup.state == .complete, "call \(call)") }
      let states = try bench.events().filter { $0.subject == job.id.ulid && $0.payload["waitingFor"] == nil }
      #expect(states.compactMap { $0.payload["state"] } == ["queued", "running", "succeeded"], "call \(call)")
    }
  }

  @Test func endThatTheCatalogDoesNotTakeIsCommittedLater() async throws {
    let bench = try await ServiceBench {
      $0.commitAttempts = 2
      $0.storeInterval = .seconds(60)
      $0.lateInterval = .milliseconds(20)
    }
    try await bench.repository()
    try await bench.image("vm1")
    let gate = Gate()
    bench.engine.script { $0.hold(at: gate) }
    let job = try await bench.backUp("vm1")
    try await gate.reached()
    bench.catalog.writeFault = FaultyCatalog.Fault(atCall: 1, fromThenOn: true)
    gate.open()
    try await eventually("the end was tried") { bench.catalog.hits >= 2 }
    #expect(try bench.service.job(job.id).state == .running)
    bench.catalog.writeFault = nil
    #expect(try await bench.end(of: job).state == .succeeded)
    #expect(try bench.service.backup(job.backups[0]).backup.state == .complete)
  }

  @Test func endThatWasNeverCommittedIsFoundOutAtTheNextStart() async throws {
    let stored = InMemoryCatalog()
    let engine = ScriptedEngine()
    let bench = try await ServiceBench(catalog: stored, engine: engine) {
      $0.commitAttempts = 2
      $0.storeInterval = .seconds(60)
    }
    try await bench.repository()
    try await bench.image("vm1")
    let gate = Gate()
    engine.script { $0.hold(at: gate) }
    let job = try await bench.backUp("vm1")
    try await gate.reached()
    bench.catalog.writeFault = FaultyCatalog.Fault(atCall: 1, fromThenOn: true)
    gate.open()
    try await eventually("the end was tried") { bench.catalog.hits >= 2 }
    let restarted = try await ServiceBench(catalog: stored, engine: engine)
    #expect(try restarted.service.job(job.id).state == .interrupted)
    // The manifest is there: the backup is complete, whatever became of the job.
    let backup = try restarted.service.backup(job.backups[0]).backup
    #expect(backup.state == .complete && backup.storedSize == 1 << 15 && backup.failure == nil)
  }

  @Test func jobThatCannotBeStartedFails() async throws {
    let bench = try await ServiceBench { $0.commitAttempts = 1 }
    try await bench.repository()
    try await bench.image("vm1")
    bench.catalog.writeFault = FaultyCatalog.Fault(atCall: 2)
    let job = try await bench.end(of: bench.backUp("vm1"))
    #expect(job.state == .failed && job.error?.code == .storageFull && job.startedAt == nil)
    #expect(try bench.service.backup(job.backups[0]).backup.state == .failed)
  }

  @Test func eventsThatCannotBeReadAreToldWithTheNextChange() async throws {
    let bench = try await ServiceBench()
    let stream = try bench.service.events()
    // The first is the registration's own, which compares the source with the registered ones.
    bench.catalog.readFault = FaultyCatalog.Fault(atCall: 2)
    try await bench.image("vm1")
    #expect(bench.catalog.hits == 1)
    bench.catalog.readFault = nil
    try await bench.image("vm2")
    for id in 1...2 {
      guard case .event(let event)? = await stream.next() else { throw ExpectationFailure("no event") }
      #expect(event.id == Int64(id))
    }
  }
}
