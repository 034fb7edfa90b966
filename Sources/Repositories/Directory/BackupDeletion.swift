import EventLoops
import Failures
import Glibc
import Model

/// Takes a stored backup away: first what claims that it is complete, then its data.
///
/// 1. The manifest is renamed to a tombstone and the folder made durable: from here on nothing claims to be whole.
/// 2. Data and hashes are removed.
/// 3. The tombstone stays for two lease times, so that another host that read the manifest before finds the reason.
///
/// What another file builds on is refused before anything happens. A deletion that was cut is finished by starting it
/// again, or by recovery.
struct BackupDeletion: Sendable {
  let repository: RepositoryFolder
  let tombstones: TombstoneWatch

  nonisolated(nonsending)
    func run(_ place: StoredBackupLocation, lease: Lease, on loop: EventLoop, control: any JobControl)
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
    _ place: StoredBackupLocation, _ repository: RepositoryFolder, _ tombstones: TombstoneWatch
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
