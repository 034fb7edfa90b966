import EventLoops
import Failures
import Glibc
import Locks
import Model

/// Takes a stored backup away: first what claims that it is complete, then its data.
///
/// 1. The manifest is renamed to a tombstone and the folder made durable: from here on nothing claims to be whole.
/// 2. Data and hashes are removed.
/// 3. The tombstone stays for two lease times, so that another host that read the manifest before finds the reason.
///
/// What another file builds on is refused before anything happens. A deletion that was cut is finished by starting it
/// again, or by recovery.
package struct BackupDeletion: Sendable {
  private let repository: DirectoryRepository
  private let tombstones: TombstoneWatch

  package init(repository: DirectoryRepository, tombstones: TombstoneWatch) {
    self.repository = repository
    self.tombstones = tombstones
  }

  nonisolated(nonsending)
    package func run(_ place: StoredBackupLocation, lease: Lease, on loop: EventLoop, control: any JobControl)
    async throws
  {
    let references = try await ChainReferences.read(place.folder, of: repository, on: loop)
    if let user = references.user(of: place.name(.data)), BackupFileName(user)?.backup != place.backup {
      throw DomainError(
        .backupHasDependents, "\(place.folder)/\(user) builds on the backup \(place.backup)",
        remedy: "delete that one first")
    }
    let (repository, tombstones) = (repository, tombstones)
    let wasThere = try await loop.blocking(about: place.fullPath(.manifest)) {
      try lease.confirm()
      try repository.requireInPlace()
      return try Self.bury(place, repository, tombstones)
    }
    if !wasThere { control.log(.info, "\(place.fullPath(.manifest)) was gone already") }
  }

  /// True if there was a manifest. Blocks.
  private static func bury(
    _ place: StoredBackupLocation, _ repository: DirectoryRepository, _ tombstones: TombstoneWatch
  ) throws -> Bool {
    let files = repository.files
    guard try files.status(of: place.folder) != nil else { return false }
    var wasThere = true
    do throws(SystemError) {
      try files.rename(place.path(.manifest), to: place.path(.tombstone), isReplacing: true)
      try files.synchronizeFolder(place.folder)
    } catch {
      guard error.code == ENOENT else { throw error }
      wasThere = false
    }
    try removeData(place, files)
    if try files.status(of: place.path(.tombstone)) != nil {
      tombstones.note(place.path(.tombstone), of: repository.location.id)
    }
    return wasThere
  }

  /// Removes what the tombstone has been put up for.
  static func removeData(_ place: StoredBackupLocation, _ files: any FolderFiles) throws(SystemError) {
    let removedHashes = try files.removeIfPresent(place.path(.hashes))
    let removedData = try files.removeIfPresent(place.path(.data))
    if removedHashes || removedData { try files.synchronizeFolder(place.folder) }
  }
}

/// Knows since when this server sees which tombstone, by its own clock.
package final class TombstoneWatch: Sendable {
  private struct Key: Hashable {
    var repository: RepositoryID
    var path: String
  }

  private let grace: Duration
  private let seen = Lock<[Key: ContinuousClock.Instant]>([:])
  /// More are not remembered, and wait until others are gone.
  private static let maximumCount = 100_000

  package init(grace: Duration) { self.grace = grace }

  func note(_ path: String, of repository: RepositoryID) {
    seen.withLock { seen in
      let key = Key(repository: repository, path: path)
      if seen[key] == nil, seen.count < Self.maximumCount { seen[key] = .now }
    }
  }

  /// Removes the tombstones of an image's chains whose time is over, and the chain folders that are empty then.
  /// The lease is held. Blocks.
  package func sweep(_ image: ImageID, of repository: DirectoryRepository) throws {
    let files = repository.files
    let limit = DirectoryRepository.maximumEntryCount
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

  private func sweep(_ path: String, of repository: DirectoryRepository) throws(SystemError) -> Bool {
    note(path, of: repository.location.id)
    let key = Key(repository: repository.location.id, path: path)
    let isOver = seen.withLock { seen in seen[key].map { .now - $0 > grace } ?? false }
    guard isOver else { return false }
    _ = try repository.files.removeIfPresent(path)
    seen.withLock { $0[key] = nil }
    return true
  }
}
