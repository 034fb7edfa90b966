import Model

/// What only the storage can tell the plan of a restore.
struct RestoreOutlook: Sendable {
  /// What would be read, from the full on.
  var path = RestorePath(backups: [])
  /// What would be written of it over an image.
  var choice: RestoreChoice?
  /// What stands on the target.
  var overlays = Overlays.none

  /// Of a longer path the two ends are told.
  private static let stepLimit = 100
  /// Findings that a refusal tells.
  private static let findingLimit = 10

  /// A step for each backup of the path, as far as a plan has room.
  func steps(in catalog: any CatalogReading) throws -> [String] {
    let (path, half) = (path.backups, Self.stepLimit / 2)
    let told = path.count > Self.stepLimit ? path.prefix(half) + path.suffix(half) : path[...]
    var steps = try told.map { id in
      "read backup \(id)" + (try catalog.backup(id).map { " (\($0.kind.rawValue), sequence \($0.sequence))" } ?? "")
    }
    if told.count < path.count { steps.insert("read \(path.count - told.count) backups between them", at: half) }
    return steps
  }

  /// Throws `backupCorrupt`, naming what is missing or damaged of any of them.
  static func requireSound(_ outlooks: [BackupID: RestoreOutlook]) throws(DomainError) {
    let damaged = outlooks.filter { $0.value.path.findingCount > 0 }.sorted { $0.key < $1.key }
    guard !damaged.isEmpty else { return }
    let findings = damaged.flatMap(\.value.path.findings)
    let count = damaged.reduce(0) { $0 + $1.value.path.findingCount }
    let told = findings.prefix(findingLimit)
    throw DomainError(
      .backupCorrupt,
      damaged.map { "backup \($0.key)" }.joined(separator: ", ") + " can't be restored: "
        + told.joined(separator: "; ") + (told.count < count ? "; and \(count - told.count) more" : ""),
      remedy: "restore another backup, and look after the repository's storage")
  }
}
