import EventLoops
import Model

/// Reads the newest chain of an image in a tracker's line. Blocks.
struct ChainHistory {
  let repository: RepositoryFolder
  let image: ImageID
  let tracker: TrackerName

  func newest() throws -> StoredChain? {
    let folder = RepositoryPath.image(image)
    guard try repository.files.status(of: folder) != nil else { return nil }
    let chains = try repository.files.entries(of: folder, limit: RepositoryFolder.maximumEntryCount)
      .filter { $0.kind == .folder }.compactMap { ChainID($0.name) }
    for chain in chains.sorted(by: >) {
      if let stored = try read(chain) { return stored }
    }
    return nil
  }

  /// Nil for a copy, for a chain of another line, and where nothing is complete.
  private func read(_ chain: ChainID) throws -> StoredChain? {
    let names = try repository.files.entries(
      of: RepositoryPath.chain(chain, of: image), limit: RepositoryFolder.maximumEntryCount
    ).filter { $0.kind == .file }.compactMap { BackupFileName($0.name) }
    let parts = Dictionary(grouping: names, by: \.backup).mapValues { Set($0.map(\.part)) }
    var (manifests, brokenCount) = ([Manifest](), 0)
    for name in names where name.part == .manifest {
      let place = StoredBackupLocation(
        repository: repository.location, image: image, chain: chain, sequence: name.sequence, backup: name.backup)
      guard parts[name.backup]?.isSuperset(of: [.data, .hashes]) == true, let manifest = try manifest(at: place) else {
        brokenCount += 1
        continue
      }
      // A copy is in no line.
      guard manifest.trackerName == tracker else { return nil }
      manifests.append(manifest)
    }
    guard !manifests.isEmpty || brokenCount > 0 else { return nil }
    return StoredChain(
      chain, manifests, brokenCount: brokenCount, lastSequence: names.map(\.sequence).max() ?? 0)
  }

  /// Nil if it can't be used.
  private func manifest(at place: StoredBackupLocation) throws -> Manifest? {
    do {
      return try repository.manifest(place)
    } catch let error as DomainError where error.code == .backupCorrupt || error.code == .backupNotComplete {
      return nil
    }
  }
}
