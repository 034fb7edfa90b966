import Model

/// What the catalog holds before a merge, read page by page, so that no view of it stays open for long and no
/// transaction reads through all of it.
struct KnownRows: Sendable {
  /// Of the repository.
  var backups: [BackupID]
  /// Of all images.
  var sources: KnownSources

  static func read(of repository: RepositoryID, from transactions: CatalogTransactions) throws -> KnownRows {
    let filter = BackupFilter(repository: repository)
    let backups = try allPages { page in try transactions.read { try $0.backups(filter, page).map(\.id) } }
    let images = try allPages { page in try transactions.read { try $0.images(page) } }
    return KnownRows(backups: backups, sources: KnownSources(images))
  }
}

/// Which image has which source, by the path's spelling and by the file that it leads to.
struct KnownSources: Sendable {
  private var images: [ImageSource: ResourceName] = [:]
  private var spelled: [ComparableSource: ResourceName] = [:]
  private var files: [FileIdentity: ResourceName] = [:]
  private var identities = SourceIdentities()

  init(_ images: [Image]) {
    for image in images { add(image.source, of: image.name) }
  }

  /// Looks which files these sources and the known ones are.
  mutating func compare(with sources: [ImageSource], by looks: ImageLooks, timeout: Duration) async {
    guard !sources.isEmpty else { return }
    await identities.look(at: sources + Array(images.keys), by: looks, timeout: timeout)
    for (source, name) in images { noteFile(of: source, name) }
  }

  /// Where two images have one source, the first counts.
  mutating func add(_ source: ImageSource, of name: ResourceName) {
    if images[source] == nil { images[source] = name }
    let place = ComparableSource(source)
    if spelled[place] == nil { spelled[place] = name }
    noteFile(of: source, name)
  }

  func image(with source: ImageSource) -> ResourceName? {
    spelled[ComparableSource(source)] ?? identities[source].flatMap { files[$0] }
  }

  private mutating func noteFile(of source: ImageSource, _ name: ResourceName) {
    if let file = identities[source], files[file] == nil { files[file] = name }
  }
}
