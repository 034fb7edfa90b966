import Model
import ModelTesting
import Testing

struct FaultyCatalogTests {
  @Test func withoutAFaultItKeepsThePort() async throws {
    for check in BackupCatalogConformance.checks {
      try await check.run { FaultyCatalog(InMemoryCatalog()) }
    }
  }

  @Test(arguments: FaultyCatalog.Effect.allCases)
  func onlyTheCountedWriteFails(_ effect: FaultyCatalog.Effect) async throws {
    let catalog = FaultyCatalog(InMemoryCatalog(), write: .init(atCall: 2, effect: effect))
    let images = (0..<3).map { Image.sample(["a", "b", "c"][$0]) }
    var failures = 0
    for image in images {
      do { try await catalog.write { try $0.insert(image) } } catch let error as DomainError {
        #expect(error.code == .storageFull)
        failures += 1
      }
    }
    #expect(failures == 1)
    #expect(catalog.wasHit)
    let names = try catalog.read { try $0.images(PageRequest()) }.items.map(\.name.text).sorted()
    #expect(names == (effect == .answerLost ? ["a", "b", "c"] : ["a", "c"]))
  }

  @Test func readsFailFromThenOnUntilTheFaultIsTakenAway() throws {
    let catalog = FaultyCatalog(InMemoryCatalog(), read: .init(atCall: 2, fromThenOn: true))
    _ = try catalog.read { try $0.eventSpan() }
    for _ in 0..<2 {
      #expect(throws: DomainError.self) { try catalog.read { try $0.eventSpan() } }
    }
    catalog.readFault = nil
    _ = try catalog.read { try $0.eventSpan() }
    #expect(catalog.hits == 2)
  }
}
