import Model
import ModelTesting
import Testing

struct InMemoryCatalogTests {
  @Test(arguments: BackupCatalogConformance.checks)
  func inMemoryCatalogKeepsThePort(_ check: BackupCatalogConformance.Check) async throws {
    try await check.run { InMemoryCatalog() }
  }
}
