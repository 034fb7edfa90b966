import Model

/// What the catalog holds before a merge, read page by page, so that no view of it stays open for long and no
/// transaction reads through all of it.
struct KnownRows: Sendable {
  /// Of the repository.
  var backups: [BackupID]
  /// Of all images.
  var sources: [ComparableSource: ResourceName]

  static func read(of repository: RepositoryID, from ledger: Ledger) throws -> KnownRows {
    let filter = BackupFilter(repository: repository)
    let backups = try allPages { page in try ledger.read { try $0.backups(filter, page).map(\.id) } }
    let images = try allPages { page in
      try ledger.read { try $0.images(page).map { (ComparableSource($0.source), $0.name) } }
    }
    return KnownRows(
      backups: backups, sources: Dictionary(images) { first, _ in first })
  }
}
