import Foundation
import Locks
import Model
import ModelTesting
import Testing

@testable import Orchestrator

/// What image and catalog don't agree on about bitmaps: it is told, and put right where no chain can lose by it.
@Suite struct ReconcileTests {
  /// An image with a backup that set a checkpoint, and what the engine finds of its tracking.
  private struct Scene: Sendable {
    let bench: ServiceBench
    let image: Image
    let repository: Repository
    let known = ULID()
    let tracking = Lock(ImageTracking())

    init() async throws {
      let catalog = InMemoryCatalog()
      let image = Image.sample("vm1", format: .qcow2)
      let repository = Repository.sample("local")
      let chain = Chain.sample(of: image, in: repository)
      var backup = Backup.sample(in: chain)
      backup.checkpoint = known
      try await catalog.write { [backup] catalog in
        try catalog.insert(image)
        try catalog.insert(repository)
        try catalog.insert(chain)
        try catalog.insert(backup)
      }
      (self.image, self.repository) = (image, repository)
      bench = try await ServiceBench(catalog: catalog)
      _ = try await bench.engine.openRepository(at: repository.path, id: repository.id)
      bench.engine.script { [tracking] script in
        script.tracking = { _ in tracking.withLock { $0 } }
        script.repairTracking = { repair in
          tracking.withLock { tracking in
            let gone = Set(repair.removals + repair.merges.map(\.source))
            tracking.bitmaps.removeAll { gone.contains($0.name) }
            tracking.awaitsRecovery = false
            if repair.removesLeftRecords { tracking.leftRecordCount = 0 }
            if repair.takesMarksOut, !tracking.bitmaps.contains(where: \.isEnabled) { tracking.isMarked = false }
          }
        }
      }
    }

    var standard: TrackerName { .standard(of: repository.id) }

    func bitmap(
      _ tracker: TrackerName, _ checkpoint: ULID, isEnabled: Bool = true, flaw: String? = nil
    ) -> ImageTracking.Bitmap {
      ImageTracking.Bitmap(
        name: BitmapName(TrackerBitmapName(tracker: tracker, checkpoint: checkpoint).bytes), isEnabled: isEnabled,
        flaw: flaw)
    }

    func set(_ bitmaps: ImageTracking.Bitmap..., isMarked: Bool = false) {
      tracking.withLock { $0 = ImageTracking(bitmaps: bitmaps, isMarked: isMarked) }
    }

    /// Each disagreement with whether it would be repaired.
    func plan() async throws -> [String] {
      let plan = try await bench.service.reconcileImage(.name("vm1"), ChangeConditions(dryRun: true)).planned()
      guard case .reconciliation(_, let all) = plan.resource else { return ["\(plan)"] }
      #expect(plan.steps.count + plan.warnings.count == all.count)
      return all.map { "\($0.code.rawValue)\($0.repair == nil ? "" : " *")" }
    }

    /// The same with what came of it.
    func reconcile() async throws -> [TrackingDisagreement] {
      let job = try await bench.end(
        of: bench.service.reconcileImage(.name("vm1"), confirm: "vm1").done())
      guard job.state == .succeeded, case .reconciled(let result) = job.result else {
        throw ExpectationFailure("\(job)")
      }
      #expect(result.disagreementCount == result.disagreements.count)
      return result.disagreements
    }

    var repairs: [TrackingRepair] {
      bench.engine.orders.compactMap { if case .repairTracking(let repair) = $0 { repair } else { nil } }
    }
  }

  @Test func whereAllAgreeNothingIsDone() async throws {
    let scene = try await Scene()
    scene.set(scene.bitmap(scene.standard, scene.known), isMarked: true)
    #expect(try await scene.plan() == [])
    #expect(try await scene.reconcile() == [])
    #expect(scene.repairs == [])
  }

  @Test func whatIsToldIsRepairedOnlyWhereNoChainCanLoseByIt() async throws {
    let scene = try await Scene()
    let (known, standard) = (scene.known, scene.standard)
    let (older, newer) = (ULID(high: 1, low: 0), ULID(high: .max >> 1, low: 0))
    let named = try #require(TrackerName("second-tool"))
    let good = scene.bitmap(standard, known)
    let cases: [([ImageTracking.Bitmap], [String])] = [
      ([good, scene.bitmap(named, known)], []),
      ([], ["tracker-missing"]),
      ([scene.bitmap(standard, newer)], ["checkpoint-unknown *"]),
      // It may be another server's.
      ([good, scene.bitmap(named, newer)], ["checkpoint-unknown"]),
      ([good, scene.bitmap(standard, older)], ["tracker-doubled *"]),
      ([scene.bitmap(standard, known, isEnabled: false), scene.bitmap(standard, newer)], ["tracker-doubled *"]),
      // What isn't consistent isn't merged.
      ([scene.bitmap(standard, known, flaw: "x"), scene.bitmap(standard, newer)], ["checkpoint-unknown *"]),
      ([scene.bitmap(standard, known, flaw: "it is in use")], ["tracker-unusable"]),
      ([scene.bitmap(standard, known, isEnabled: false)], ["tracker-unusable"]),
      ([scene.bitmap(standard, TrackerBitmapName.noCheckpoint, isEnabled: false)], ["tracker-unusable"]),
      // The older one of a tracker that has no usable newer one stays.
      ([scene.bitmap(standard, known, flaw: "x"), scene.bitmap(standard, older)], ["tracker-unusable"]),
    ]
    for (bitmaps, expected) in cases {
      scene.tracking.withLock { $0 = ImageTracking(bitmaps: bitmaps) }
      #expect(try await scene.plan() == expected, "\(bitmaps.map(\.name.quoted))")
    }
    scene.tracking.withLock { $0 = ImageTracking(bitmaps: [good], awaitsRecovery: true, leftRecordCount: 2) }
    #expect(try await scene.plan() == ["recovery-pending *", "records-left *"])
    scene.set(ImageTracking.Bitmap(name: BitmapName("b0"), isEnabled: false), isMarked: true)
    #expect(try await scene.plan() == ["marks-left *", "tracker-missing"])
    #expect(scene.repairs == [])
  }

  @Test func whatNoRepositoryHasIsRemovedAndListenersLearnOfIt() async throws {
    let scene = try await Scene()
    let stray = scene.bitmap(scene.standard, ULID())
    scene.set(stray, isMarked: true)
    let found = try await scene.reconcile()
    #expect(found.map(\.code) == [.checkpointUnknown] && found.map(\.outcome) == [.repaired])
    #expect(scene.repairs.map(\.removals) == [[stray.name]] && scene.repairs[0].takesMarksOut)
    let event = try scene.bench.events().last { $0.kind == .bitmapDeleted }
    #expect(event?.payload.bitmap == stray.name && event?.subject == scene.image.id.ulid)
    #expect(try await scene.plan() == ["tracker-missing"])
  }

  @Test func whatTheRepositoryHasOrMayHaveIsKept() async throws {
    let scene = try await Scene()
    let checkpoint = ULID()
    let stray = scene.bitmap(scene.standard, checkpoint)
    scene.set(scene.bitmap(scene.standard, scene.known, isEnabled: false), stray)
    scene.bench.engine.script { script in
      script.unreadable = { _ in [BackupID()] }
    }
    var found = try await scene.reconcile()
    #expect(found.map(\.outcome) == [.left] && found[0].why?.contains("can't be read") == true)
    scene.bench.engine.script { script in
      script.unreadable = { _ in [] }
      script.scanFindings = { _ in throw DomainError(.repositoryUnavailable, "it is gone") }
    }
    found = try await scene.reconcile()
    #expect(found.map(\.outcome) == [.left] && found[0].why?.contains("it is gone") == true)
    scene.bench.engine.script { $0.scanFindings = { _ in [] } }
    #expect(scene.repairs == [])
    // Nobody has it: the backup ended early.
    #expect(try await scene.reconcile().map(\.outcome) == [.repaired])
    #expect(scene.repairs.map(\.merges.count) == [1] && scene.repairs[0].removals == [])
  }

  @Test func bitmapsThatAreGoneAreTakenOffExportsThatCantBeOpened() async throws {
    let scene = try await Scene()
    scene.set(scene.bitmap(scene.standard, scene.known), ImageTracking.Bitmap(name: BitmapName("b0")))
    var export = Export.sample("look", of: .image(scene.image.id), state: .unavailable)
    export.bitmaps = ["b0", "b1"].map { ExportedBitmap(bitmap: BitmapName($0), exportName: $0) }
    try await scene.bench.stored.write { [export] in try $0.insert(export) }
    #expect(try await scene.plan() == ["exported-bitmap-missing *"])
    let found = try await scene.reconcile()
    #expect(found.map(\.outcome) == [.repaired] && found[0].bitmap == "b1" && found[0].export == export.id)
    let stored = try scene.bench.stored.read { [export] in try $0.export(export.id) }
    #expect(stored?.bitmaps.map(\.exportName) == ["b0"] && scene.repairs == [])
    #expect(try scene.bench.events().contains { $0.kind == .exportChanged && $0.subject == export.id.ulid })
  }

  @Test func itNeedsTheImagesNameAndTheImageAtRest() async throws {
    let scene = try await Scene()
    let service = scene.bench.service
    for confirm in [nil, "vm2"] {
      await expectRefusal(.confirmationRequired) { try await service.reconcileImage(.name("vm1"), confirm: confirm) }
    }
    await expectRefusal(.notFound) { try await service.reconcileImage(.name("vm2"), confirm: "vm2") }
    try await scene.bench.attach("vm1")
    await expectRefusal(.imageInUse) { try await service.reconcileImage(.name("vm1"), confirm: "vm1") }
    await expectRefusal(.imageInUse) { try await service.reconcileImage(.name("vm1"), ChangeConditions(dryRun: true)) }
  }

  @Test func whatTheEngineRefusesFailsTheJob() async throws {
    let scene = try await Scene()
    scene.set(scene.bitmap(scene.standard, ULID()))
    scene.bench.engine.script { $0.repairTracking = { _ in throw DomainError(.imageLocked, "QEMU has it") } }
    let job = try await scene.bench.end(
      of: scene.bench.service.reconcileImage(.name("vm1"), confirm: "vm1").done())
    #expect(job.state == .failed && job.error?.code == .imageLocked)
  }
}
