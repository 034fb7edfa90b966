import Foundation
import Model
import ModelTesting
import Orchestrator
import Testing

@Suite struct ImageTests {
  @Test func registeredImageHasTheSizeThatTheEngineTellsAndAnEvent() async throws {
    let bench = try await ServiceBench()
    bench.engine.script { script in
      script.inspect = { ImageInspection(format: $0.format, virtualSize: 4096, storedSize: 512) }
    }
    let image = try await bench.image("vm1")
    #expect(image.virtualSize == 4096)
    #expect(image.state == .detached)
    #expect(try bench.service.image(.name("vm1")) == image)
    #expect(try bench.service.image(.id(image.id)) == image)
    let event = try #require(try bench.events().last)
    #expect(event.kind == .imageCreated && event.subject == image.id.ulid)
  }

  @Test func missingFormatIsRefusedWithASuggestion() async throws {
    let bench = try await ServiceBench()
    bench.engine.script { $0.suggestFormat = { _ in FormatSuggestion(format: .qcow2, why: "it starts with QFI") } }
    let refusal = await expectRefusal(.formatRequired) {
      try await bench.service.registerImage(ImageDraft(name: "vm1", source: .file(path: "/images/a"), format: nil))
    }
    #expect(refusal?.remedy?.contains("qcow2") == true)
    #expect(refusal?.faults.first?.part == .field(.format))
    #expect(try bench.eventKinds().isEmpty)
  }

  @Test func rawDiskStatedAsQcow2IsAFormatMismatch() async throws {
    let bench = try await ServiceBench()
    bench.engine.script { $0.inspect = { _ in throw DomainError(.imageCorrupt, "bad magic") } }
    await expectRefusal(.formatMismatch) {
      try await bench.service.registerImage(ImageDraft(name: "vm1", source: .file(path: "/images/a"), format: .qcow2))
    }
    bench.engine.script { $0.suggestFormat = { _ in FormatSuggestion(format: .qcow2, why: "it has the header") } }
    await expectRefusal(.imageCorrupt) {
      try await bench.service.registerImage(ImageDraft(name: "vm1", source: .file(path: "/images/a"), format: .qcow2))
    }
  }

  @Test func takenNameAndTakenSourceAreRefused() async throws {
    let bench = try await ServiceBench()
    try await bench.image("vm1")
    await expectRefusal(.nameTaken) { try await bench.image("vm1", path: "/images/other") }
    await expectRefusal(.sourceTaken) { try await bench.image("vm2", path: "/images//./vm1") }
    #expect(try bench.service.images(PageRequest()).items.count == 1)
  }

  @Test func refusalOfTheEngineRefusesTheRegistration() async throws {
    let bench = try await ServiceBench()
    bench.engine.script { $0.inspect = { _ in throw DomainError(.pathOutsideFolders, "outside") } }
    await expectRefusal(.pathOutsideFolders) { try await bench.image("vm1") }
  }

  @Test func tooManyOrTooLongLabelsAreRefused() async throws {
    let bench = try await ServiceBench { $0.labelsPerImage = 2 }
    for labels in [["a": "", "b": "", "c": ""], ["": "x"], ["a": String(repeating: "x", count: 257)]] {
      await expectRefusal(.invalidField) {
        try await bench.service.registerImage(
          ImageDraft(name: "vm1", source: .file(path: "/images/a"), format: .raw, labels: labels))
      }
    }
  }

  @Test func changeMergesLabelsAndRenames() async throws {
    let bench = try await ServiceBench()
    let image = try await bench.service.registerImage(
      ImageDraft(
        name: "vm1", source: .file(path: "/images/a"), format: .raw, labels: ["tier": "gold", "os": "linux"])
    ).done()
    let change = ImageChange(name: "vm2", labels: .merge(["os": nil, "zone": "b"]))
    let changed = try await bench.service.changeImage(.name("vm1"), change).done()
    #expect(changed.name == "vm2")
    #expect(changed.labels == ["tier": "gold", "zone": "b"])
    #expect(changed.revision == image.revision + 1)
    #expect(try bench.eventKinds() == [.imageCreated, .imageChanged])
    let cleared = try await bench.service.changeImage(.name("vm2"), ImageChange(labels: .clear)).done()
    #expect(cleared.labels.isEmpty)
  }

  /// What was recorded while nobody else wrote says nothing once others may.
  @Test func exclusivenessThatEndsTakesWhatWasRecordedWithIt() async throws {
    let bench = try await ServiceBench()
    let draft = ImageDraft(name: "vm1", source: .device(path: "/dev/a"), format: .raw, isExclusive: true)
    let image = try await bench.service.registerImage(draft).done()
    #expect(image.isExclusive && image.location.isExclusive)
    func removals() -> Int {
      bench.engine.orders.count {
        if case .removeTracking(let location, nil) = $0 { location == image.location } else { false }
      }
    }
    _ = try await bench.service.changeImage(.name("vm1"), ImageChange(labels: .clear)).done()
    #expect(removals() == 0)
    let refused = TrackingRemoval(failure: ProblemDetails(DomainError(.ioError, "the state folder is gone")))
    bench.engine.script { $0.removeTracking = { _, _ in refused } }
    await expectRefusal(.ioError) {
      _ = try await bench.service.changeImage(.name("vm1"), ImageChange(isExclusive: false))
    }
    #expect(try bench.service.image(.name("vm1")).isExclusive)
    bench.engine.script { $0.removeTracking = { _, _ in TrackingRemoval() } }
    #expect(
      try await bench.service.changeImage(.name("vm1"), ImageChange(isExclusive: false)).done().isExclusive == false)
    #expect(removals() == 2)
    #expect(try await bench.service.changeImage(.name("vm1"), ImageChange(isExclusive: true)).done().isExclusive)
    #expect(removals() == 2)
  }

  @Test func changeThatChangesNothingMakesNoRevisionAndNoEvent() async throws {
    let bench = try await ServiceBench()
    let image = try await bench.image("vm1")
    let same = try await bench.service.changeImage(.name("vm1"), ImageChange(name: "vm1")).done()
    #expect(same == image)
    #expect(try bench.eventKinds() == [.imageCreated])
  }

  @Test func renameReachesChainsAndTheRepositoriesThatHaveThem() async throws {
    let bench = try await ServiceBench()
    let backup = try await bench.completeBackup()
    try await bench.repository("unused")
    _ = try await bench.service.changeImage(.name("vm1"), ImageChange(name: "web")).done()
    #expect(try bench.service.backup(backup.id).imageName == "web")
    let records = bench.engine.orders.compactMap { order in
      if case .record(let record, let repository) = order { (record.name, repository.path) } else { nil }
    }
    #expect(records.count == 1)
    #expect(records.first?.0 == "web" && records.first?.1 == "/backup/local")
  }

  @Test func renameToATakenNameIsRefused() async throws {
    let bench = try await ServiceBench()
    try await bench.image("vm1")
    try await bench.image("vm2")
    await expectRefusal(.nameTaken) { try await bench.service.changeImage(.name("vm1"), ImageChange(name: "vm2")) }
  }

  @Test func staleRevisionIsRefused() async throws {
    let bench = try await ServiceBench()
    let image = try await bench.image("vm1")
    let change = ImageChange(labels: .merge(["a": "b"]))
    _ = try await bench.service.changeImage(.name("vm1"), change, ChangeConditions(expectedRevision: image.revision))
    await expectRefusal(.preconditionFailed) {
      try await bench.service.changeImage(
        .name("vm1"), ImageChange(labels: .clear), ChangeConditions(expectedRevision: image.revision))
    }
    await expectRefusal(.preconditionFailed) {
      try await bench.service.unregisterImage(.name("vm1"), ChangeConditions(expectedRevision: image.revision))
    }
  }

  @Test func unregisteredImageLeavesItsBackups() async throws {
    let bench = try await ServiceBench()
    let backup = try await bench.completeBackup()
    _ = try await bench.service.unregisterImage(.name("vm1")).done()
    await expectRefusal(.notFound) { try bench.service.image(.name("vm1")) }
    let view = try bench.service.backup(backup.id)
    #expect(view.backup.state == .complete && view.imageName == "vm1")
    let found = try bench.service.backups(BackupQuery(image: .id(backup.image)), PageRequest())
    #expect(found.items.map(\.backup.id) == [backup.id])
    #expect(try bench.eventKinds().last == .imageDeleted)
  }

  @Test func imageOfALiveJobCannotBeUnregistered() async throws {
    let bench = try await ServiceBench()
    let gate = Gate()
    bench.engine.script { $0.hold(at: gate) }
    try await bench.repository()
    try await bench.image("vm1")
    let job = try await bench.backUp("vm1")
    let refusal = await expectRefusal(.imageInUse) { try await bench.service.unregisterImage(.name("vm1")) }
    #expect(refusal?.detail.contains(job.id.description) == true)
    gate.open()
    _ = try await bench.end(of: job)
    _ = try await bench.service.unregisterImage(.name("vm1")).done()
  }

  @Test func inspectionKeepsWhetherTheImageIsThere() async throws {
    let bench = try await ServiceBench()
    try await bench.image("vm1")
    bench.engine.script { $0.inspect = { _ in throw DomainError(.sourceNotFound, "gone") } }
    await expectRefusal(.sourceNotFound) { try await bench.service.inspectImage(.name("vm1")) }
    #expect(try bench.service.image(.name("vm1")).state == .unavailable)
    bench.engine.script { script in
      script.inspect = { ImageInspection(format: $0.format, virtualSize: 2 << 20, storedSize: 0) }
    }
    _ = try await bench.service.inspectImage(.name("vm1"))
    let image = try bench.service.image(.name("vm1"))
    #expect(image.state == .detached && image.virtualSize == 2 << 20)
    // Being locked says nothing about being there.
    bench.engine.script { $0.inspect = { _ in throw DomainError(.imageLocked, "QEMU has it") } }
    await expectRefusal(.imageLocked) { try await bench.service.inspectImage(.name("vm1")) }
    #expect(try bench.service.image(.name("vm1")).state == .detached)
  }

  @Test func pageOfAnotherGenerationIsRefused() async throws {
    let bench = try await ServiceBench()
    try await bench.image("vm1")
    func extents(_ generation: String?) async throws -> ExtentPage {
      try await bench.service.extents(
        ofImage: .name("vm1"), offset: 0, length: nil, limit: 10, generation: generation)
    }
    #expect(try await extents(nil).generation == "1")
    #expect(try await extents("1").items.count == 1)
    await expectRefusal(.extentsChanged) { try await extents("0") }
  }
}
