import Foundation
import Model
import ModelTesting
import Orchestrator
import Testing

@Suite struct DeclarationTests {
  private let declared = Declarations(
    repositories: [RepositoryDraft(name: "local", path: "/backup/local")],
    images: [ImageDraft(name: "vm1", source: .file(path: "/images/vm1"), format: .raw, labels: ["tier": "gold"])])

  @Test func declaredResourcesAreThereAndCannotBeChangedHere() async throws {
    let bench = try await ServiceBench(declarations: declared)
    let service = bench.service
    let (image, repository) = (try service.image(.name("vm1")), try service.repository(.name("local")))
    #expect(image.managedBy == .config && image.labels == ["tier": "gold"] && image.state == .detached)
    #expect(repository.managedBy == .config)
    await expectRefusal(.managedByConfig) { try await service.changeImage(.name("vm1"), ImageChange(name: "x")) }
    await expectRefusal(.managedByConfig) { try await service.unregisterImage(.name("vm1")) }
    await expectRefusal(.managedByConfig) { try await service.renameRepository(.name("local"), to: "x") }
    await expectRefusal(.managedByConfig) { try await service.unregisterRepository(.name("local")) }
    #expect(try await bench.end(of: bench.backUp("vm1")).state == .succeeded)
  }

  @Test func sameDeclarationTwiceChangesNothing() async throws {
    let (stored, engine) = (InMemoryCatalog(), ScriptedEngine())
    let first = try await ServiceBench(catalog: stored, engine: engine, declarations: declared)
    let (events, image) = (try first.events(), try first.service.image(.name("vm1")))
    let second = try await ServiceBench(catalog: stored, engine: engine, declarations: declared)
    #expect(try second.events() == events)
    #expect(try second.service.image(.name("vm1")) == image)
    // An unmounted folder must not be made a repository anew.
    #expect(engine.orders.filter { if case .openRepository = $0 { true } else { false } }.count == 1)
  }

  @Test func whatIsTakenOutIsRetiredWithoutDeletingAnything() async throws {
    let (stored, engine) = (InMemoryCatalog(), ScriptedEngine())
    let first = try await ServiceBench(catalog: stored, engine: engine, declarations: declared)
    _ = try await first.end(of: first.backUp("vm1"))
    try await first.image("kept")
    let second = try await ServiceBench(catalog: stored, engine: engine)
    #expect(try second.service.images(PageRequest()).items.map(\.name) == ["kept"])
    #expect(try second.service.repositories(PageRequest()).items.isEmpty)
    #expect(try second.eventKinds().suffix(2) == [.repositoryDeleted, .imageDeleted])
    #expect(!engine.orders.contains { if case .delete = $0 { true } else { false } })
    // Declared again: everything is found again.
    let third = try await ServiceBench(catalog: stored, engine: engine, declarations: declared)
    let job = try await third.end(of: third.service.rescanRepository(.name("local")).done())
    #expect(job.result?["backupsAdded"] == 1)
    let image = try third.service.image(.name("vm1"))
    #expect(try third.service.backups(BackupQuery(image: .id(image.id)), PageRequest()).items.count == 1)
  }

  @Test func clashWithWhatWasMadeOverRESTFailsTheStart() async throws {
    let clashes: [(ServiceBench) async throws -> Void] = [
      { try await $0.image("vm1", path: "/images/other") },
      { try await $0.image("other", path: "/images/vm1") },
      { try await $0.repository("local") },
      { bench in
        _ = try await bench.service.createRepository(RepositoryDraft(name: "other", path: "/backup/local"))
      },
    ]
    for (make, code) in zip(clashes, [ProblemCode.nameTaken, .sourceTaken, .nameTaken, .nameTaken]) {
      let (stored, engine) = (InMemoryCatalog(), ScriptedEngine())
      try await make(ServiceBench(catalog: stored, engine: engine))
      let refusal = await expectRefusal(code) {
        try await ServiceBench(catalog: stored, engine: engine, declarations: declared).service
      }
      #expect(refusal?.detail.contains("over REST") == true)
    }
  }

  @Test func declaringTheSameTwiceFailsTheStart() async throws {
    var twice = [declared, declared, declared, declared]
    twice[0].images.append(ImageDraft(name: "vm1", source: .file(path: "/images/other"), format: .raw))
    twice[1].images.append(ImageDraft(name: "vm2", source: .file(path: "/images//vm1"), format: .raw))
    twice[2].repositories.append(RepositoryDraft(name: "local", path: "/backup/other"))
    twice[3].repositories.append(RepositoryDraft(name: "other", path: "/backup/local/"))
    for declarations in twice {
      await expectRefusal(.invalidField) { try await ServiceBench(declarations: declarations).service }
    }
  }

  @Test func declaredRepositoryThatCannotBeOpenedFailsTheStart() async throws {
    let engine = ScriptedEngine()
    engine.script { $0.repositoryID = { _ in throw DomainError(.repositoryMismatch, "it holds other files") } }
    let refusal = await expectRefusal(.repositoryMismatch) {
      try await ServiceBench(engine: engine, declarations: declared).service
    }
    #expect(refusal?.detail.contains("'local'") == true)
  }

  @Test func declaredImageWithoutItsFileDoesNotFailTheStart() async throws {
    let engine = ScriptedEngine()
    engine.script { $0.inspect = { _ in throw DomainError(.sourceNotFound, "gone") } }
    let bench = try await ServiceBench(engine: engine, declarations: declared)
    #expect(try bench.service.image(.name("vm1")).state == .unavailable)
  }

  @Test func renamedDeclarationKeepsItsIdAndBackups() async throws {
    let (stored, engine) = (InMemoryCatalog(), ScriptedEngine())
    let first = try await ServiceBench(catalog: stored, engine: engine, declarations: declared)
    let job = try await first.end(of: first.backUp("vm1"))
    let before = try first.service.image(.name("vm1"))
    let repository = try first.service.repository(.name("local"))
    var renamed = declared
    renamed.images[0].name = "web"
    renamed.repositories[0].name = "main"
    engine.script { $0.repositoryID = { _ in repository.id } }
    // Its name changes at the same path: by name it is unknown, by its folder's id it is the same.
    let second = try await ServiceBench(catalog: stored, engine: engine, declarations: renamed)
    #expect(try second.service.image(.name("web")).id == before.id)
    #expect(try second.service.repository(.name("main")).id == repository.id)
    let view = try second.service.backup(job.backups[0])
    #expect(view.imageName == "web" && view.repositoryName == "main")
  }

  @Test func lostCatalogFindsItsImagesAgainByNameAndSource() async throws {
    let engine = ScriptedEngine()
    let lost = try await ServiceBench(engine: engine, declarations: declared)
    let job = try await lost.end(of: lost.backUp("vm1"))
    let (image, repository) = (try lost.service.image(.name("vm1")), try lost.service.repository(.name("local")))
    let bench = try await ServiceBench(engine: engine, declarations: declared)
    #expect(try bench.service.image(.name("vm1")).id == image.id)
    #expect(try bench.service.repository(.name("local")).id == repository.id)
    _ = try await bench.end(of: bench.service.rescanRepository(.name("local")).done())
    let found = try bench.service.backups(BackupQuery(image: .name("vm1")), PageRequest()).items
    #expect(found.map(\.backup.id) == job.backups)
    #expect(try bench.service.images(PageRequest()).items.count == 1)
  }
}
