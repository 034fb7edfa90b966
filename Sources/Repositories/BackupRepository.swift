import BlockCore
import EventLoops
import Foundation
import Model
import Qcow2

/// A kind of repository: opens those of its kind.
package protocol RepositoryKind: Sendable {
  /// Opens the repository for one piece of work, whose devices are `loop`'s.
  /// - Throws: `repositoryUnavailable`, `repositoryMismatch`.
  nonisolated(nonsending)
    func open(_ location: RepositoryLocation, on loop: EventLoop) async throws -> any BackupRepository

  /// Makes a repository with `id` at `path`, or takes over the one that is there; any other content is refused.
  nonisolated(nonsending)
    func establish(
      at path: String, id: RepositoryID, now: Date, on loop: EventLoop
    ) async throws -> EstablishedRepository
}

package struct EstablishedRepository: Hashable, Sendable {
  package var id: RepositoryID
  /// What was put right, as a sentence; nil if nothing was.
  package var repair: String?

  package init(id: RepositoryID, repair: String?) {
    self.id = id
    self.repair = repair
  }
}

/// What is stored of a backup beside its manifest.
package enum StoredFile: Hashable, Sendable, CaseIterable {
  /// The guest's data.
  case data
  /// The hash tree over them.
  case hashes
}

/// Where backups are stored: a repository that is open for one piece of work, on one loop.
///
/// The port that every kind of repository implements, whatever it stores in: names and places are for people and are
/// never taken apart. What it throws is a `DomainError` that names what it is about, or a cancellation. What an
/// implementation promises, and its conformance suite looks at:
///
/// R1. A backup is there exactly if its manifest is. ``BackupStage/publish(_:)`` makes it appear whole, or not at all;
///     before that nothing reads or reports it as a backup.
/// R2. Nothing that is complete is ever replaced: an id that is taken is refused before anything is written.
/// R3. Only the holder of the image's lease publishes or deletes; the lease is confirmed right before. So is the parent
///     of what is published: it is complete and has the root that the manifest names.
/// R4. A stage that was discarded leaves nothing, also after its publishing failed. A stage whose server died is removed
///     by that server's ``recover(isLive:)``, which leaves other servers' stages alone.
/// R5. What another backup builds on is neither deleted nor removed. A deleted backup is told from one that never was
///     there, and deleting it again does nothing.
/// R6. The newest chain of a tracker is the one with the highest id that a full of its line began; a backup is a link of
///     it only if all that it builds on is there as it was. A chain whose line can't be told, as none of its manifests
///     can be read, may be anybody's.
package protocol BackupRepository: Sendable {
  var location: RepositoryLocation { get }
  /// What opening it has put right, as a sentence; nil if nothing was.
  var repair: String? { get }

  /// What a person knows the manifest of a backup by.
  func name(of backup: StoredBackupLocation) -> String
  /// What a person knows a file of a backup by.
  func name(of file: StoredFile, _ backup: StoredBackupLocation) -> String

  nonisolated(nonsending) func access() async throws -> RepositoryAccess

  /// Reads every manifest, and tells what doesn't belong there.
  nonisolated(nonsending) func scan() async throws -> RepositoryScan

  /// Removes this server's stages whose job isn't live, finishes deletions, and sets aside finished files that belong
  /// to no backup.
  nonisolated(nonsending)
    func recover(isLive: @escaping @Sendable (JobID) -> Bool) async throws -> RecoveryReport

  /// Keeps what an image is called now. Does nothing if the image has no backups here.
  nonisolated(nonsending) func record(_ image: ImageRecord, job: JobID) async throws

  /// The manifest of a backup that is complete.
  /// - Throws: `backupNotComplete` if there is none, `backupCorrupt` if it can't be used.
  nonisolated(nonsending) func manifest(of backup: StoredBackupLocation) async throws -> Manifest

  /// The hashes of a backup, as stored.
  nonisolated(nonsending) func openHashes(of backup: StoredBackupLocation) async throws -> any BlockDevice

  /// The data of a backup, as a guest would see them, with all that they build on: at least as long as its disk.
  /// - Throws: `backupCorrupt` where they aren't what the manifest says.
  nonisolated(nonsending)
    func openData(of manifest: Manifest, at backup: StoredBackupLocation) async throws -> any BlockDevice

  /// The backup's own data file, without what it builds on: its tables, to be checked. Nil where the kind has none.
  /// - Throws: `backupCorrupt` where it can't be opened as what it should be.
  nonisolated(nonsending) func openTables(of backup: StoredBackupLocation) async throws -> Qcow2Image?

  /// What the backup builds on, as it was then; nil if it builds on none.
  /// - Throws: `backupCorrupt` unless that is complete, with the root that it had.
  nonisolated(nonsending) func parent(of backup: StoredBackup) async throws -> StoredBackup?

  /// All that the backup builds on, from its parent down to the full.
  /// - Throws: `backupCorrupt` unless all is complete, with the roots that it had, and none comes twice.
  nonisolated(nonsending) func ancestry(of backup: StoredBackup) async throws -> [StoredBackup]

  /// The newest chain of the image that a full of the tracker began, as far as it can be built on; nil if there is none.
  nonisolated(nonsending) func newestChain(of image: ImageID, tracker: TrackerName) async throws -> StoredChain?

  /// What the data of a backup call the data that they build on.
  func backingName(_ parent: StoredBackupLocation) -> String

  /// Takes the right to write what belongs to an image here; waits for one whose holder gives no sign to expire.
  /// - Throws: `repositoryLeased` if another server holds it and lives.
  nonisolated(nonsending)
    func takeLease(on image: ImageID, control: any JobControl) async throws -> any RepositoryLease

  /// Deletes a backup, under the image's lease.
  /// - Throws: `backupHasDependents`.
  nonisolated(nonsending) func delete(_ backup: StoredBackupLocation, control: any JobControl) async throws
}

/// The right to write what belongs to one image in a repository. It is renewed until it is given back, once.
package protocol RepositoryLease: Sendable {
  /// Rises with each taking.
  var epoch: UInt64 { get }

  /// Begins a new backup. ``BackupStage/discard()`` is due from here on, unless it is published.
  /// - Throws: `targetExists` if there is one of that id, in whatever state; `invalidField` beyond
  ///   ``Manifest/sequences``.
  nonisolated(nonsending)
    func begin(_ backup: StoredBackupLocation, of image: ImageRecord, for job: JobID) async throws -> any BackupStage

  nonisolated(nonsending) func giveBack() async
}

/// A backup that is being written: no reader sees it until it is published.
package protocol BackupStage: Sendable {
  var backup: StoredBackupLocation { get }

  /// A new, empty file of the backup, to be written at any offsets, flushed and closed before it is published.
  nonisolated(nonsending) func create(_ file: StoredFile) async throws -> any BlockDevice

  /// Makes it all durable and visible, the manifest last. Returns the bytes that it takes.
  /// - Throws: `repositoryLeased` if the lease was lost, `backupCorrupt` if the parent isn't what it was, and whatever
  ///   the storage says; then nothing is there.
  nonisolated(nonsending) func publish(_ manifest: Manifest) async throws -> UInt64

  /// Removes everything that the stage made, what claims to be complete first. Returns what couldn't be removed.
  nonisolated(nonsending) func discard() async -> [String]
}

extension BackupRepository {
  /// Holds the image's lease while `body` runs.
  nonisolated(nonsending)
    package func withLease<Result: Sendable>(
      on image: ImageID, control: any JobControl, _ body: (any RepositoryLease) async throws -> Result
    ) async throws -> Result
  {
    let lease = try await takeLease(on: image, control: control)
    let result: Swift.Result<Result, any Error>
    do { result = .success(try await body(lease)) } catch { result = .failure(error) }
    await lease.giveBack()
    return try result.get()
  }

  /// A backup that is complete, to be read.
  nonisolated(nonsending)
    package func stored(_ backup: StoredBackupLocation) async throws -> StoredBackup
  {
    StoredBackup(manifest: try await manifest(of: backup), location: backup, repository: self)
  }
}

extension RepositoryLocation {
  /// The lane of calls that may hang on the repository's storage.
  package var lane: BlockingLane { .folder(path) }
}
