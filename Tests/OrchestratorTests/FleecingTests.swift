import Foundation
import Model
import ModelTesting
import Testing

@testable import Orchestrator

@Suite struct FleecingTests {
  private static let listen = ExportAddress.unix(path: "/run/cobweb/fleece.sock")

  private static func draft(_ images: ResourceName..., lifetime: Int = 3600) -> FleecingDraft {
    FleecingDraft(images: images.map { .name($0) }, listen: listen, lifetime: lifetime)
  }

  /// A fleecing that is active.
  private static func begin(_ bench: ServiceBench, _ draft: FleecingDraft = draft("vm1")) async throws -> Fleecing {
    let job = try await bench.end(of: bench.service.createFleecing(draft).done())
    try #require(job.state == .succeeded, "\(job.error?.detail ?? "")")
    let id = try #require(job.links.fleecing)
    #expect(job.result == .fleeced(JobResult.Fleeced(fleecing: id)))
    return try await bench.service.fleecing(id).fleecing
  }

  private static func row(_ bench: ServiceBench, _ id: FleecingID) throws -> Fleecing? {
    try bench.stored.read { try $0.fleecing(id) }
  }

  @Test func viewsAreServedUnderNamesThatCarryTheId() async throws {
    let bench = try await ServiceBench()
    try await bench.image("vm1")
    try await bench.image("vm2")
    let fleecing = try await Self.begin(bench, Self.draft("vm1", "vm2", lifetime: 60))
    #expect(fleecing.state == .active && fleecing.pointInTime == ManualClock.epoch)
    #expect(fleecing.expiresAt == ManualClock.epoch + 60)
    let order = try #require(bench.engine.servedFleecings[fleecing.id])
    #expect(order.parts.map(\.exportName) == ["vm1@\(fleecing.id)", "vm2@\(fleecing.id)"])
    #expect(fleecing.uri(of: fleecing.images[0]).contains("vm1%40\(fleecing.id)"))
    #expect(try bench.service.exports(ExportQuery(), PageRequest()).items.isEmpty)
    let kinds = try bench.events().filter { $0.subject == fleecing.id.ulid }.map(\.kind)
    #expect(kinds == [.fleecingCreated, .fleecingChanged])
  }

  @Test func aFinishEndsTheViewsAndTellsTheOutcome() async throws {
    let bench = try await ServiceBench()
    try await bench.image("vm1")
    for outcome in Fleecing.Outcome.allCases {
      let fleecing = try await Self.begin(bench)
      let job = try await bench.end(of: bench.service.finishFleecing(fleecing.id, outcome).done())
      #expect(job.state == .succeeded, "\(job.error?.detail ?? "")")
      let ended = try await bench.service.fleecing(fleecing.id)
      #expect(ended.fleecing.state == .finished && ended.fleecing.outcome == outcome && ended.activity == nil)
      #expect(bench.engine.servedFleecings.isEmpty)
      await expectRefusal(.fleecingEnded) { try await bench.service.finishFleecing(fleecing.id, outcome) }
      await expectRefusal(.fleecingEnded) { try await bench.service.renewFleecing(fleecing.id, lifetime: 60) }
      await expectRefusal(.fleecingEnded) {
        try await bench.service.releaseFleeced([FleecedExtent(offset: 0, length: 1)], of: .name("vm1"), in: fleecing.id)
      }
    }
  }

  @Test func aDeletionIsAFailureAndThenForgets() async throws {
    let bench = try await ServiceBench()
    try await bench.image("vm1")
    let fleecing = try await Self.begin(bench)
    _ = try await bench.service.deleteFleecing(fleecing.id).done()
    #expect(bench.engine.servedFleecings.isEmpty)
    let ended = try await bench.service.fleecing(fleecing.id).fleecing
    #expect(ended.state == .finished && ended.outcome == .failure)
    _ = try await bench.service.deleteFleecing(fleecing.id).done()
    await expectRefusal(.notFound) { try await bench.service.fleecing(fleecing.id) }
    #expect(try bench.eventKinds().last == .fleecingDeleted)
  }

  @Test func anExpiryIsAFailureAndARenewalPutsItOff() async throws {
    let bench = try await ServiceBench()
    try await bench.image("vm1")
    let fleecing = try await Self.begin(bench)
    bench.clock.advance(bySeconds: 3599)
    let renewed = try await bench.service.renewFleecing(fleecing.id, lifetime: 100).done().fleecing
    #expect(renewed.expiresAt == ManualClock.epoch + 3699)
    bench.clock.advance(bySeconds: 99)
    try await bench.image("vm2")
    #expect(try Self.row(bench, fleecing.id)?.state == .active)
    bench.clock.advance(bySeconds: 1)
    // Each commit has the clock looked at.
    try await bench.image("vm3")
    try await eventually("it expires") { try Self.row(bench, fleecing.id)?.state == .expired }
    #expect(try Self.row(bench, fleecing.id)?.outcome == .failure && bench.engine.servedFleecings.isEmpty)
  }

  @Test func whatEndedIsForgottenAfterADay() async throws {
    let stored = InMemoryCatalog()
    let (old, young) = (Fleecing.sample(state: .finished), Fleecing.sample(state: .broken))
    try await stored.write { catalog in
      for fleecing in [old, young] { try catalog.insert(fleecing) }
    }
    let clock = ManualClock()
    clock.advance(bySeconds: 60 + 24 * 60 * 60)
    let bench = try await ServiceBench(catalog: stored, clock: clock) { $0.fleecingPruneInterval = .zero }
    #expect(try await bench.service.fleecings(FleecingFilter(), PageRequest()).items.count == 2)
    clock.advance(bySeconds: 1)
    try await bench.image("vm1")
    try await eventually("they are gone") {
      try await bench.service.fleecings(FleecingFilter(), PageRequest()).items.isEmpty
    }
  }

  @Test func aLossIsTold() async throws {
    let bench = try await ServiceBench()
    try await bench.image("vm1")
    let fleecing = try await Self.begin(bench)
    bench.engine.lose(fleecing.id)
    try await eventually("it is broken") { try Self.row(bench, fleecing.id)?.state == .broken }
    let row = try #require(try Self.row(bench, fleecing.id))
    #expect(row.error?.code == .pointInTimeLost && row.outcome == nil && bench.engine.servedFleecings.isEmpty)
    let event = try #require(try bench.events().last)
    #expect(event.kind == .fleecingChanged && event.payload["error"] == "point-in-time-lost")
    #expect(event.payload["why"] == "there was no room left")
    let refusal = await expectRefusal(.fleecingEnded) {
      try await bench.service.renewFleecing(fleecing.id, lifetime: 60)
    }
    #expect(refusal?.detail.contains("there was no room left") == true)
  }

  @Test func noneOutlivesTheServer() async throws {
    let stored = InMemoryCatalog()
    let all = Fleecing.State.allCases.map { Fleecing.sample(state: $0) }
    try await stored.write { catalog in for fleecing in all { try catalog.insert(fleecing) } }
    let bench = try await ServiceBench(catalog: stored)
    for before in all {
      let after = try #require(try Self.row(bench, before.id))
      #expect(after.state == (before.state.isEnded ? before.state : .broken))
      if !before.state.isEnded { #expect(after.error?.detail.contains("the server stopped") == true) }
    }
  }

  /// What fails, or is cancelled, before the moment leaves a fleecing that is broken, and says why.
  @Test func oneThatCannotBeginIsBroken() async throws {
    let bench = try await ServiceBench()
    try await bench.image("vm1")
    bench.engine.script { $0.fleece = { _ in throw DomainError(.tempFull, "no room") } }
    let failed = try await bench.end(of: bench.service.createFleecing(Self.draft("vm1")).done())
    #expect(failed.state == .failed && failed.error?.code == .tempFull)
    let first = try #require(failed.links.fleecing)
    #expect(try Self.row(bench, first)?.error?.detail == "no room")

    let gate = Gate()
    bench.engine.script { script in
      script.fleece = { _ in }
      script.hold(at: gate)
    }
    let job = try await bench.service.createFleecing(Self.draft("vm1")).done()
    try await gate.reached(by: 1)
    _ = try await bench.service.cancelJob(job.id)
    #expect(try await bench.end(of: job).state == .cancelled)
    let second = try #require(job.links.fleecing)
    let row = try #require(try Self.row(bench, second))
    #expect(row.state == .broken && bench.engine.servedFleecings.isEmpty)
  }

  @Test func oneThatStartsIsDeletedWithItsJob() async throws {
    let bench = try await ServiceBench { $0.concurrentJobs = 1 }
    try await bench.image("vm1")
    let gate = Gate()
    bench.engine.script { $0.hold(at: gate) }
    let running = try await bench.service.createFleecing(Self.draft("vm1")).done()
    try await gate.reached(by: 1)
    let queued = try await bench.service.createFleecing(Self.draft("vm1")).done()
    let id = try #require(queued.links.fleecing)
    _ = try await bench.service.deleteFleecing(id).done()
    #expect(try await bench.end(of: queued).state == .cancelled)
    #expect(try Self.row(bench, id)?.state == .broken)
    gate.open()
    #expect(try await bench.end(of: running).state == .succeeded)
  }

  @Test func anImageStaysAsItIsWhileItIsFleeced() async throws {
    let bench = try await ServiceBench()
    try await bench.image("vm1")
    try await bench.export("disk0", isReadOnly: false)
    let fleecing = try await Self.begin(bench)
    let refusal = await expectRefusal(.imageInUse) { try await bench.service.deleteExport(.name("disk0"), .hard) }
    #expect(refusal?.detail.contains("\(fleecing.id)") == true)
    await expectRefusal(.imageInUse) { try await bench.service.detachImage(.name("vm1")) }
    _ = try await bench.service.deleteFleecing(fleecing.id).done()
    _ = try await bench.service.deleteExport(.name("disk0"), .safe).done()
    let atRest = try await Self.begin(bench)
    await expectRefusal(.imageInUse) { try await bench.service.attachImage(.name("vm1")) }
    await expectRefusal(.imageInUse) { try await bench.service.unregisterImage(.name("vm1")) }
    await expectRefusal(.imageInUse) { try await bench.export("disk0", isReadOnly: false) }
    _ = try await bench.service.deleteFleecing(atRest.id).done()
    _ = try await bench.service.unregisterImage(.name("vm1")).done()
    try bench.expectInLine()
  }

  @Test func extentsAreReleasedWithinTheDisk() async throws {
    let bench = try await ServiceBench()
    let image = try await bench.image("vm1")
    let fleecing = try await Self.begin(bench)
    let extents = [FleecedExtent(offset: 65536, length: 65536), FleecedExtent(offset: 0, length: 1 << 20)]
    _ = try await bench.service.releaseFleeced(extents, of: .name("vm1"), in: fleecing.id).done()
    #expect(bench.engine.orders.contains(.release(extents, of: image.id, in: fleecing.id)))
    for bad in [FleecedExtent(offset: 1 << 20, length: 1), FleecedExtent(offset: .max, length: 2)] {
      await expectRefusal(.invalidField) {
        try await bench.service.releaseFleeced([bad], of: .name("vm1"), in: fleecing.id)
      }
    }
    await expectRefusal(.notFound) {
      try await bench.service.releaseFleeced(extents, of: .name("vm2"), in: fleecing.id)
    }
  }

  @Test func refusals() async throws {
    let bench = try await ServiceBench { $0.liveFleecings = 1 }
    try await bench.image("vm1")
    var far = Self.draft("vm1")
    far.listen = .tcp(host: "192.0.2.1", port: 10809)
    await expectRefusal(.tlsRequired) { [far] in try await bench.service.createFleecing(far) }
    await expectRefusal(.notFound) { try await bench.service.createFleecing(Self.draft("vm2")) }
    await expectRefusal(.invalidField) { try await bench.service.createFleecing(Self.draft("vm1", "vm1")) }
    let plan = try await bench.service.createFleecing(Self.draft("vm1"), ChangeConditions(dryRun: true)).planned()
    #expect(plan.action == "create-fleecing")
    _ = try await Self.begin(bench)
    await expectRefusal(.queueFull) { try await bench.service.createFleecing(Self.draft("vm1")) }
  }

  /// Ended in the engine, and the catalog doesn't take it: it is broken as soon as it does.
  @Test func anEndThatTheCatalogDoesNotTakeIsMadeUpFor() async throws {
    let bench = try await ServiceBench { limits in
      (limits.commitAttempts, limits.lateInterval) = (1, .milliseconds(5))
    }
    try await bench.image("vm1")
    let fleecing = try await Self.begin(bench)
    bench.catalog.writeFault = FaultyCatalog.Fault(atCall: 1, fromThenOn: true)
    await expectRefusal(.storageFull) { try await bench.service.deleteFleecing(fleecing.id) }
    #expect(bench.engine.servedFleecings.isEmpty)
    bench.catalog.writeFault = nil
    try await bench.image("vm2")
    try await eventually("it is broken") { try Self.row(bench, fleecing.id)?.state == .broken }
  }

  // MARK: Increments

  private static func finish(_ bench: ServiceBench, _ id: FleecingID, label: String? = nil) async throws -> ULID? {
    let job = try await bench.end(of: bench.service.finishFleecing(id, .success, label: label).done())
    guard case .finishedFleecing(let result)? = job.result else { throw ExpectationFailure("\(job)") }
    #expect(result.label == (result.checkpoint == nil ? nil : label))
    return result.checkpoint
  }

  @Test func aSuccessSetsWhatTheNextOneCountsFrom() async throws {
    let bench = try await ServiceBench()
    let images = [try await bench.image("vm1"), try await bench.image("vm2")]
    let first = try await Self.begin(bench, Self.draft("vm1", "vm2"))
    #expect(bench.engine.servedFleecings[first.id]?.parts.allSatisfy { $0.base == nil } == true)
    let checkpoint = try #require(try await Self.finish(bench, first.id, label: "monday"))
    #expect(checkpoint == first.checkpoint)
    for image in images {
      let stored = try bench.stored.read { try $0.fleecingCheckpoints(of: image.id) }
      #expect(stored.map(\.id) == [checkpoint] && stored.map(\.label) == ["monday"])
    }
    var draft = Self.draft("vm2")
    (draft.since, draft.access) = (.checkpoint(checkpoint), .dirty)
    let second = try await Self.begin(bench, draft)
    let order = try #require(bench.engine.servedFleecings[second.id])
    let tracked = try #require(bench.engine.currentScript.tracked)
    #expect(order.parts.map(\.base) == [.checkpoint(checkpoint, of: Fleecing.standardTracker, .known(tracked))])
    #expect(order.access == .dirty && order.contextName == checkpoint.description)
    #expect(second.images[0].dirtyBytes == 65536)
    // A failure sets nothing.
    let job = try await bench.end(of: bench.service.finishFleecing(second.id, .failure, label: "x").done())
    #expect(job.result == .finishedFleecing(JobResult.FinishedFleecing(fleecing: second.id, outcome: .failure)))
    #expect(try bench.stored.read { try $0.fleecingCheckpoints(of: images[1].id) }.map(\.id) == [checkpoint])
    // The image is forgotten with its checkpoints.
    _ = try await bench.service.unregisterImage(.name("vm1")).done()
    #expect(try bench.stored.read { try $0.fleecingCheckpoints(of: images[0].id) }.isEmpty)
  }

  @Test func aCheckpointThatCannotBeSetBreaksTheFleecing() async throws {
    let bench = try await ServiceBench()
    try await bench.image("vm1")
    let fleecing = try await Self.begin(bench)
    bench.engine.script { script in
      script.finishFleecing = { _ in throw DomainError(.pointInTimeLost, "there was no room left") }
    }
    let job = try await bench.end(of: bench.service.finishFleecing(fleecing.id, .success).done())
    #expect(job.state == .failed && job.error?.code == .pointInTimeLost)
    let row = try #require(try Self.row(bench, fleecing.id))
    #expect(row.state == .broken && row.error?.detail == "there was no room left" && row.outcome == nil)
    #expect(bench.engine.servedFleecings.isEmpty)
  }

  @Test func imagesThatCanHaveNoBitmapSetNoCheckpoint() async throws {
    let bench = try await ServiceBench()
    let image = try await bench.image("vm1")
    bench.engine.script { $0.tracked = nil }
    let fleecing = try await Self.begin(bench)
    #expect(fleecing.checkpoint == nil)
    #expect(try await Self.finish(bench, fleecing.id, label: "monday") == nil)
    #expect(try bench.stored.read { try $0.fleecingCheckpoints(of: image.id) }.isEmpty)
  }

  /// Of each tracker a few are kept: what a crash left unset doesn't push out the one that was set.
  @Test func aFewCheckpointsOfEachTrackerAreKept() async throws {
    let bench = try await ServiceBench()
    let image = try await bench.image("vm1")
    var set: [ULID] = []
    for _ in 0..<FleecingCheckpoint.keptCount + 2 {
      set.append(try #require(try await Self.finish(bench, Self.begin(bench).id)))
    }
    let kept = try bench.stored.read { try $0.fleecingCheckpoints(of: image.id) }.map(\.id)
    #expect(kept == set.suffix(FleecingCheckpoint.keptCount))
  }

  /// Neither backups nor fleecings advance the other's tracker.
  @Test func aTrackerIsOfBackupsOrOfFleecings() async throws {
    let bench = try await ServiceBench()
    let backup = try await bench.completeBackup()
    var draft = Self.draft("vm1")
    draft.tracker = try #require(backup.tracker)
    await expectRefusal(.bitmapBusy) { [draft] in try await bench.service.createFleecing(draft) }
    draft.tracker = TrackerName("other")!
    let fleecing = try await Self.begin(bench, draft)
    _ = try await Self.finish(bench, fleecing.id)
    let refusal = await expectRefusal(.bitmapBusy) {
      try await bench.service.createBackup(
        BackupDraft(images: [.name("vm1")], repository: .name("local"), tracker: TrackerName("other")!))
    }
    #expect(refusal?.faults.first?.part == .field(.tracker))
  }

  @Test func aBaseMustBeThere() async throws {
    let bench = try await ServiceBench()
    let backup = try await bench.completeBackup()
    try await bench.image("vm2")
    func refusal(
      _ code: ProblemCode, _ since: Fleecing.Base?, access: Fleecing.Access = .all, _ images: ResourceName...
    )
      async
    {
      var draft = FleecingDraft(images: images.map { .name($0) }, listen: Self.listen)
      (draft.since, draft.access) = (since, access)
      await expectRefusal(code) { [draft] in try await bench.service.createFleecing(draft) }
    }
    await refusal(.invalidField, nil, access: .dirty, "vm1")
    await refusal(.notFound, .checkpoint(ULID()), "vm1")
    await refusal(.notFound, .backup(BackupID()), "vm1")
    await refusal(.invalidField, .backup(backup.id), "vm2")
    // Its engine set none.
    await refusal(.trackingLost, .backup(backup.id), "vm1")
  }
}
