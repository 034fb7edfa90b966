import Foundation
import Model
import ModelTesting
import Orchestrator
import Testing

@Suite struct RepositoryTests {
  @Test func repositoryTakesTheIdThatStandsInItsFolder() async throws {
    let bench = try await ServiceBench()
    let id = RepositoryID()
    bench.engine.script { $0.repositoryID = { _ in id } }
    #expect(try await bench.repository().id == id)
    #expect(try bench.eventKinds() == [.repositoryCreated])
  }

  @Test func folderOrRepositoryIsRegisteredOnce() async throws {
    let bench = try await ServiceBench()
    let first = try await bench.repository()
    await expectRefusal(.nameTaken) { try await bench.repository() }
    await expectRefusal(.nameTaken) {
      try await bench.service.createRepository(RepositoryDraft(name: "other", path: "/backup/./local/"))
    }
    // The same repository under another path, e.g. through a link.
    bench.engine.script { $0.repositoryID = { _ in first.id } }
    await expectRefusal(.nameTaken) {
      try await bench.service.createRepository(RepositoryDraft(name: "other", path: "/backup/link"))
    }
  }

  @Test func refusedDraftDoesNotTouchTheFolder() async throws {
    let bench = try await ServiceBench()
    try await bench.repository()
    let before = bench.engine.orders
    await expectRefusal(.nameTaken) {
      try await bench.service.createRepository(RepositoryDraft(name: "local", path: "/backup/new"))
    }
    #expect(bench.engine.orders == before)
  }

  @Test func renameKeepsIdAndChecksRevisionAndName() async throws {
    let bench = try await ServiceBench()
    let repository = try await bench.repository()
    try await bench.repository("second")
    let renamed = try await bench.service.renameRepository(
      .name("local"), to: "main", ChangeConditions(expectedRevision: repository.revision)
    ).done()
    #expect(renamed.id == repository.id && renamed.name == "main")
    await expectRefusal(.nameTaken) { try await bench.service.renameRepository(.name("main"), to: "second") }
    await expectRefusal(.preconditionFailed) {
      try await bench.service.renameRepository(
        .name("main"), to: "x", ChangeConditions(expectedRevision: repository.revision))
    }
    await expectRefusal(.notFound) { try await bench.service.renameRepository(.name("local"), to: "x") }
  }

  @Test func repositoryOfALiveJobCannotBeUnregistered() async throws {
    let bench = try await ServiceBench()
    let backup = try await bench.completeBackup()
    let gate = Gate()
    bench.engine.script { $0.hold(at: gate) }
    let job = try await bench.service.verifyBackup(backup.id, level: .checksum).done()
    await expectRefusal(.repositoryInUse) { try await bench.service.unregisterRepository(.name("local")) }
    gate.open()
    _ = try await bench.end(of: job)
    _ = try await bench.service.unregisterRepository(.name("local")).done()
    await expectRefusal(.notFound) { try bench.service.backup(backup.id) }
    #expect(!bench.engine.orders.contains { if case .delete = $0 { true } else { false } })
  }

  @Test func backupIntoAnUnavailableRepositoryIsRefused() async throws {
    let stored = InMemoryCatalog()
    try await stored.write { try $0.insert(Repository.sample()) }
    let engine = ScriptedEngine()
    engine.script { script in
      script.recover = { _ in throw DomainError(.repositoryUnavailable, "not mounted") }
      script.access = { _ in throw DomainError(.repositoryUnavailable, "not mounted") }
    }
    let bench = try await ServiceBench(catalog: stored, engine: engine)
    try await bench.image("vm1")
    await expectRefusal(.repositoryUnavailable) { try await bench.backUp("vm1") }
  }
}
