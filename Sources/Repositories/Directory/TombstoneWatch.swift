import EventLoops
import Locks
import Model

/// Knows since when this server sees which tombstone, by its own clock.
final class TombstoneWatch: Sendable {
  private struct Key: Hashable {
    var repository: RepositoryID
    var path: String
  }

  private let grace: Duration
  private let seen = Lock<[Key: ContinuousClock.Instant]>([:])
  /// More are not remembered, and wait until others are gone.
  private static let maximumCount = 100_000

  init(grace: Duration) { self.grace = grace }

  func note(_ path: String, of repository: RepositoryID) {
    seen.withLock { seen in
      let key = Key(repository: repository, path: path)
      if seen[key] == nil, seen.count < Self.maximumCount { seen[key] = .now }
    }
  }

  /// Removes the tombstones of an image's chains whose time is over, and the chain folders that are empty then.
  /// The lease is held. Blocks.
  func sweep(_ image: ImageID, of repository: RepositoryFolder) throws {
    let files = repository.files
    let limit = RepositoryFolder.maximumEntryCount
    let imageFolder = RepositoryPath.image(image)
    guard try files.status(of: imageFolder) != nil else { return }
    for chain in try files.entries(of: imageFolder, limit: limit) where chain.kind == .folder {
      let folder = "\(imageFolder)/\(chain.name)"
      let entries = try files.entries(of: folder, limit: limit)
      var removedCount = 0
      for entry in entries where BackupFileName(entry.name)?.part == .tombstone {
        if try sweep("\(folder)/\(entry.name)", of: repository) { removedCount += 1 }
      }
      // One that was empty before may have been made a moment ago, for a backup that is beginning.
      if removedCount > 0, removedCount == entries.count { try? files.removeFolder(folder) }
    }
  }

  private func sweep(_ path: String, of repository: RepositoryFolder) throws(SystemError) -> Bool {
    note(path, of: repository.location.id)
    let key = Key(repository: repository.location.id, path: path)
    let isOver = seen.withLock { seen in seen[key].map { .now - $0 > grace } ?? false }
    guard isOver else { return false }
    _ = try repository.files.removeIfPresent(path)
    seen.withLock { $0[key] = nil }
    return true
  }
}
