import Catalog
import Foundation
import Model
import ModelTesting
import Testing

/// What the store itself refuses to hold, and what is told about a row that it holds all the same.
struct ExportSchemaTests {
  private let folder: TemporaryFolder

  init() throws { folder = try TemporaryFolder() }

  @Test(arguments: [
    ("exports", "image = '01J00000000000000000000000', backup = '01J00000000000000000000000'"),
    ("exports", "image = NULL, backup = NULL"),
    ("exports", "listen_kind = 'tcp', listen_port = NULL"),
    ("exports", "listen_kind = 'unix', listen_port = 10809"),
    ("exports", "listen_kind = 'tcp', listen_port = 65536"),
    ("images", "attached_cache = 'direct', attached_by = NULL"),
    ("images", "attached_cache = NULL, attached_by = 'export'"),
  ])
  func aRowThatContradictsItselfIsRefusedAndIfItIsThereNamed(_ table: String, _ change: String) async throws {
    let catalog = try SQLiteCatalog(stateFolder: folder.path)
    let export = Export.sample()
    let image = Image.sample()
    try await catalog.write { transaction in
      try transaction.insert(export)
      try transaction.insert(image)
    }
    let refusal = await #expect(throws: DomainError.self) {
      try await catalog.write { try ($0 as? CatalogSession)?.execute("UPDATE \(table) SET \(change)") }
    }
    #expect(refusal?.code == .internalError)
    try catalog.read { (view: any CatalogReading) throws in
      #expect(try view.export(export.id) == export)
      #expect(try view.image(image.id) == image)
    }

    let key = table == "exports" ? export.id.description : image.id.description
    let damage = await #expect(throws: DomainError.self) {
      try await catalog.write { transaction in
        let session = try #require(transaction as? CatalogSession)
        try session.execute("PRAGMA ignore_check_constraints = ON")
        try session.execute("UPDATE \(table) SET \(change)")
        _ = try session.export(export.id)
        _ = try session.image(image.id)
      }
    }
    #expect(damage?.code == .ioError)
    #expect(damage?.detail.contains(key) == true)
    try catalog.close()
  }
}
