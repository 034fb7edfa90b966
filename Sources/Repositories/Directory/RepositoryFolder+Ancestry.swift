import Model

/// A backup, and all that it builds on.
struct ChainLink: Sendable {
  let manifest: Manifest
  let place: StoredBackupLocation
}

extension RepositoryFolder {
  /// Where the backup lies that the manifest builds on; nil if it builds on none. Blocks.
  /// - Throws: `backupCorrupt` unless it is complete, with the root that it had then.
  func parent(of manifest: Manifest, at place: StoredBackupLocation) throws -> StoredBackupLocation? {
    guard manifest.parent != nil else { return nil }
    return try link(below: ChainLink(manifest: manifest, place: place), try sequences(in: place.folder))?.place
  }

  /// The backup and all that it builds on, from the top down. Blocks.
  /// - Throws: `backupCorrupt` unless all is complete, with the roots that it had then.
  func ancestry(of manifest: Manifest, at place: StoredBackupLocation) throws -> [ChainLink] {
    let sequences = try sequences(in: place.folder)
    var links = [ChainLink(manifest: manifest, place: place)]
    while let link = try link(below: links[links.count - 1], sequences) {
      guard links.count < Manifest.sequences.count else {
        throw DomainError(
          .backupCorrupt, "what \(place.backup) builds on leads back to \(link.place.backup)",
          remedy: "use another backup")
      }
      links.append(link)
    }
    return links
  }

  /// The places of the chain's backups that have manifests.
  private func sequences(in folder: String) throws -> [BackupID: Int] {
    let names = try files.entries(of: folder, limit: Self.maximumEntryCount).lazy.compactMap { BackupFileName($0.name) }
    return Dictionary(names.filter { $0.part == .manifest }.map { ($0.backup, $0.sequence) }) { first, _ in first }
  }

  private func link(below link: ChainLink, _ sequences: [BackupID: Int]) throws -> ChainLink? {
    guard let parent = link.manifest.parent else { return nil }
    guard let sequence = sequences[parent.backup] else {
      throw DomainError(.backupCorrupt, "the parent \(parent.backup) of \(link.place.backup) is missing")
    }
    var place = link.place
    place.sequence = sequence
    place.backup = parent.backup
    let manifest = try manifest(place)
    guard manifest.merkleRoot == parent.merkleRoot else {
      throw DomainError(.backupCorrupt, "the parent \(parent.backup) of \(link.place.backup) isn't what it was")
    }
    return ChainLink(manifest: manifest, place: place)
  }
}
