import Catalog
import Foundation
import Model
import ModelTesting
import Testing

struct SchemaTests {
  private let folder: TemporaryFolder

  init() throws { folder = try TemporaryFolder() }

  private func schema() throws -> [String] {
    let catalog = try SQLiteCatalog(stateFolder: folder.path)
    defer { try? catalog.close() }
    return try catalog.read { view in
      try (view as? CatalogSession)?.texts(
        "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT GLOB 'sqlite_*' ORDER BY tbl_name, type DESC, name"
      )
    } ?? []
  }

  /// The dump is for people who want the whole at a glance. With UPDATE_SCHEMA=1 in the environment it is written.
  @Test func theSchemaDumpIsWhatTheMigrationsMake() throws {
    let place = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
      .appending(path: "../../migrations/schema.sql").standardized
    let dump =
      "-- What the migrations make together; kept so by a test. UPDATE_SCHEMA=1 swift test --filter SchemaTests\n"
      + (try schema()).map { "\n\($0);\n" }.joined()
    if ProcessInfo.processInfo.environment["UPDATE_SCHEMA"] == "1" {
      try Data(dump.utf8).write(to: place)
    }
    #expect(try String(contentsOf: place, encoding: .utf8) == dump)
  }

  @Test func everyTableIsStrict() throws {
    for table in try schema() where table.hasPrefix("CREATE TABLE") {
      #expect(table.hasSuffix("STRICT") || table.hasSuffix("STRICT, WITHOUT ROWID"), "\(table)")
    }
  }

  @Test(arguments: [
    ("images", "format", DiskFormat.allCases.map(\.rawValue)),
    ("images", "attached_cache", CacheMode.allCases.map(\.rawValue)),
    ("images", "attached_by", Attachment.Cause.allCases.map(\.rawValue)),
    ("images", "managed_by", ManagedBy.allCases.map(\.rawValue)),
    ("repositories", "state", Repository.State.allCases.map(\.rawValue)),
    ("repositories", "managed_by", ManagedBy.allCases.map(\.rawValue)),
    ("backups", "compression", Compression.allCases.map(\.rawValue)),
    ("backups", "consistency", Consistency.allCases.map(\.rawValue)),
    ("backups", "verify_level", VerifyLevel.allCases.map(\.rawValue)),
    ("exports", "listen_kind", ["unix", "tcp"]),
    ("exports", "tls", ExportTLS.allCases.map(\.rawValue)),
    ("exports", "state", Export.State.allCases.map(\.rawValue)),
    ("fleecings", "listen_kind", ["unix", "tcp"]),
    ("fleecings", "tls", ExportTLS.allCases.map(\.rawValue)),
    ("fleecings", "release", Fleecing.Release.allCases.map(\.rawValue)),
    ("fleecings", "access", Fleecing.Access.allCases.map(\.rawValue)),
    ("fleecings", "outcome", Fleecing.Outcome.allCases.map(\.rawValue)),
    ("jobs", "state", JobState.allCases.map(\.rawValue)),
    ("job_log", "level", JobLogEntry.Level.allCases.map(\.rawValue)),
  ])
  func theStoreTakesJustTheValuesOfTheEnum(_ table: String, _ column: String, _ values: [String]) throws {
    let sql = try #require(
      try schema().first { $0.hasPrefix("CREATE TABLE \(table) ") || $0.hasPrefix("CREATE TABLE \"\(table)\"") })
    let opening = try #require(sql.range(of: "CHECK (\(column) IN ("))
    let closing = try #require(sql.range(of: ")", range: opening.upperBound..<sql.endIndex))
    let listed = sql[opening.upperBound..<closing.lowerBound].split(separator: ",").map { item in
      item.trimmingCharacters(in: CharacterSet(charactersIn: " \n'"))
    }
    #expect(listed.sorted() == values.sorted())
  }

  /// The values that grow are rows: the program's are among them, and later ones are added by one INSERT.
  @Test(arguments: [
    ("images", "source_kind", "image_source_kinds", ["file", "device", "nbd"]),
    ("images", "state", "image_states", Image.State.allCases.map(\.rawValue)),
    ("repositories", "kind", "repository_kinds", Repository.Kind.allCases.map(\.rawValue)),
    ("backups", "kind", "backup_kinds", BackupKind.allCases.map(\.rawValue)),
    ("backups", "requested_kind", "requested_backup_kinds", BackupKind.allCases.map(\.rawValue)),
    ("backups", "state", "backup_states", Backup.State.allCases.map(\.rawValue)),
    ("backups", "state_before_deletion", "backup_states", Backup.State.allCases.map(\.rawValue)),
    ("fleecings", "state", "fleecing_states", Fleecing.State.allCases.map(\.rawValue)),
    ("jobs", "kind", "job_kinds", JobKind.allCases.map(\.rawValue)),
    ("events", "kind", "event_kinds", Event.Kind.allCases.map(\.rawValue)),
  ])
  func theReferenceTableHasTheValuesOfTheEnum(
    _ table: String, _ column: String, _ reference: String, _ values: [String]
  ) throws {
    let catalog = try SQLiteCatalog(stateFolder: folder.path)
    defer { try? catalog.close() }
    try catalog.read { view in
      let session = try #require(view as? CatalogSession)
      let target = try session.text(
        "SELECT \"table\" || '.' || \"to\" FROM pragma_foreign_key_list('\(table)') WHERE \"from\" = '\(column)'")
      #expect(target == "\(reference).name")
      let rows = try session.texts("SELECT name FROM \(reference)")
      #expect(Set(values).isSubset(of: rows))
    }
  }

  @Test(arguments: [
    ("images", "state"), ("images", "source_kind"), ("repositories", "kind"), ("backups", "kind"),
    ("backups", "requested_kind"), ("backups", "state"), ("backups", "state_before_deletion"), ("jobs", "kind"),
    ("events", "kind"),
  ])
  func aValueThatIsNoRowIsRefused(_ table: String, _ column: String) async throws {
    let catalog = try SQLiteCatalog(stateFolder: folder.path)
    let (image, repository) = (Image.sample(), Repository.sample())
    let chain = Chain.sample(of: image, in: repository)
    try await catalog.write { transaction in
      try transaction.insert(image)
      try transaction.insert(repository)
      try transaction.insert(chain)
      try transaction.insert(Backup.sample(in: chain))
      try transaction.insert(Job.sample())
      try transaction.append(Event(at: ManualClock.epoch, kind: .imageCreated, subject: image.id.ulid))
    }
    let refusal = await #expect(throws: DomainError.self) {
      try await catalog.write { try ($0 as? CatalogSession)?.execute("UPDATE \(table) SET \(column) = 'unheard-of'") }
    }
    #expect(refusal?.code == .internalError)
    #expect(refusal?.detail.contains("FOREIGN KEY") == true)
    try catalog.close()
  }
}
