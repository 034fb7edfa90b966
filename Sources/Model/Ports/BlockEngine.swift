import Foundation

/// The port to the block engine: everything that touches the bytes of images and repositories.
///
/// It carries only plain values, so that the engine could run as a process of its own. Failures are `DomainError`s
/// that name the file and the remedy; a cancelled job ends in `CancellationError`.
package protocol BlockEngine: BitmapEngine, FleecingEngine {
  /// "io_uring" or "epoll": what drives its I/O.
  var ioBackend: String { get }

  // MARK: Images

  /// What the source's header looks like, as a suggestion to a person; it is never acted on.
  func suggestFormat(of source: ImageSource) async throws -> FormatSuggestion
  /// Opens the image for reading, with every file it names, and tells what it is.
  func inspect(_ image: ImageLocation) async throws -> ImageInspection
  /// The extents from `offset` on, at most `limit`, within `length` bytes (nil: to the end).
  func extents(
    of image: ImageLocation, offset: UInt64, length: UInt64?, limit: Int
  ) async throws -> ExtentPage

  /// The path at which a new file would be made, with the links on the way resolved: two paths for one file are the same
  /// by then. Throws `targetExists` if anything has the name, if only a link that leads nowhere, and `sourceNotFound`
  /// without a folder to make it in.
  func resolveTarget(_ path: String) async throws -> String
  /// Which file or device each source is, whatever its path; nil where that can't be told, as for NBD exports.
  func identities(of sources: [ImageSource]) async throws -> [FileIdentity?]

  /// Takes what the program has put into an image to track its changes out of it again: the bitmaps of one tracker, or
  /// nil: of all, with whatever else there is. What can't be is told, and isn't thrown. Nothing is done to an image that
  /// can't carry a tracker.
  func removeTracking(from image: ImageLocation, tracker: TrackerName?) async -> TrackingRemoval

  /// What an image at rest has of its tracking; nothing where it can carry none.
  func tracking(of image: ImageLocation) async throws -> ImageTracking
  /// Puts an image's tracking right, in one durable step. Throws `imageInUse` and `imageLocked` unless it is at rest.
  func repairTracking(_ repair: TrackingRepair) async throws

  // MARK: Attached images and exports

  /// Opens the image as `AttachOrder` says; from then on ``extents(of:offset:length:limit:)`` of it are the live ones.
  /// Requests that only look at the image are waited for, and wait. Throws `imageLocked` if another process holds it,
  /// or another use by this engine, which the detail names; and `imageInUse` if it is attached already.
  func attach(_ order: AttachOrder, control: any JobControl) async throws -> AttachReceipt
  /// Flushes and closes the image. Throws `imageInUse` while it has exports; does nothing if it isn't attached.
  /// After any other error it is closed all the same.
  func detach(_ image: ImageID) async throws
  /// Has `handler` told, on any thread, of each failure after which an attached image is written no more. It must not
  /// wait. To be set before the first image is attached.
  func onImageFailure(_ handler: @escaping @Sendable (ImageFailure) -> Void)
  /// Has `handler` told, on any thread, of damage that readers of a backup met: clients of its export, and restores. It
  /// must not wait. To be set before the first export is served.
  func onBackupDamage(_ handler: @escaping @Sendable (BackupDamage) -> Void)
  /// Serves what the order names from the return on. Throws `nameTaken` if its address has the name already,
  /// `addressUnavailable` if it can't listen there, `tlsUnavailable` without the credentials that it needs.
  func export(_ order: ExportOrder) async throws
  /// Has clients that connect from now on see the contexts of the order; those that are connected keep theirs. Throws
  /// `notFound` if the export isn't served, or for a bitmap that isn't there, `bitmapInconsistent` for one that can't be
  /// read, `backupCorrupt` for a backup whose hashes can't be.
  func setContexts(_ order: ExportOrder) async throws
  /// Ends the export; its address is given up with the last one. Throws `exportInUse` if it is to be safe and has
  /// clients; does nothing if there is no such export.
  func withdraw(_ export: ExportID, _ removal: ExportRemoval) async throws
  /// Nil if it isn't served.
  func activity(of export: ExportID) -> ExportActivity?

  // MARK: Repositories

  /// Makes the folder a repository, or takes over the one that it already is; any other content is refused.
  /// Returns the id that stands in its repository.json, `id` if it was made.
  func openRepository(at path: String, id: RepositoryID) async throws -> RepositoryID
  /// Opens the repository and tells what can be done with it now. Throws `repositoryUnavailable`, `repositoryMismatch`.
  func access(to repository: RepositoryLocation) async throws -> RepositoryAccess
  /// Reads every manifest: what a catalog needs to know all of it again.
  func scan(_ repository: RepositoryLocation) async throws -> RepositoryScan
  /// Removes work files of this server whose job isn't in `liveJobs`, and reports what is finished but belongs to
  /// no backup.
  func recover(_ repository: RepositoryLocation, liveJobs: Set<JobID>) async throws -> RecoveryReport
  /// Removes work files that restores of this server left beside their targets, unless their job is in `liveJobs`.
  /// Returns their paths.
  func removeRestoreLeftovers(liveJobs: Set<JobID>) async throws -> [String]
  /// Writes image.json anew, e.g. after a rename. Does nothing if the image has no folder there.
  func record(_ image: ImageRecord, in repository: RepositoryLocation) async throws

  // MARK: Jobs

  /// Has all images of a group at one moment: opens and locks them in order of id, takes the leases, and decides what
  /// each backup will be. Answers in the order of the group. Unless the others are to go on, one that can't be held
  /// fails them all, and nothing is held then. What was begun is ended by ``store(_:control:)`` or ``abandon(_:)``.
  func begin(_ group: GroupOrder, control: any JobControl) async throws -> [BackupBeginning]
  /// Copies what the image held at its moment, publishes the backup, and lets the image go, whatever comes of it.
  func store(_ backup: BackupID, control: any JobControl) async throws -> BackupReceipt
  /// Lets the images go that were begun and aren't stored; does nothing about others.
  func abandon(_ backups: [BackupID]) async
  func verify(_ order: VerifyOrder, control: any JobControl) async throws -> VerifyReport
  func restore(_ order: RestoreOrder, control: any JobControl) async throws -> RestoreReport
  /// What a restore of the backup reads, and what of it is missing, of another size, or has tables that don't hold
  /// together. The guest's data aren't read.
  func restorePath(to backup: StoredBackupLocation) async throws -> RestorePath
  /// What a restore over an image would write, in the mode that the order asks for.
  func restoreChoice(_ order: RestoreOrder) async throws -> RestoreChoice
  /// Where a stored backup holds data, with all that it builds on.
  func extents(ofBackup backup: StoredBackupLocation, _ query: StoredExtentQuery) async throws -> ExtentPage
  /// Where the backup isn't what the other one is, by their hashes: of one chain or of two.
  func differences(
    _ backup: StoredBackupLocation, from other: StoredBackupLocation, _ query: StoredExtentQuery
  ) async throws -> DifferencePage
  /// Has the image's tracker count from the backup's parent, durably, before the backup is deleted. Whatever comes of
  /// the deletion then, what the tracker says is right.
  func returnCheckpoint(_ order: CheckpointReturn) async -> CheckpointReturn.Outcome
  /// Deletes a stored backup's files: a tombstone first, so that a cut leaves nothing that claims to be whole.
  func delete(_ backup: StoredBackupLocation, control: any JobControl) async throws
  /// Checks an image that isn't attached; a raw one has nothing to check, and is only opened.
  func check(_ order: CheckOrder, control: any JobControl) async throws -> CheckReport

  /// Ends exports and closes attached images, after the jobs in flight have ended. Nothing may be called afterwards.
  func shutDown() async
}

/// The engine's line to the job it works for. Any thread may call.
package protocol JobControl: Sendable {
  var job: JobID { get }
  /// Bytes per second, 0 = unlimited; may change while the job runs.
  var speedLimit: UInt64 { get }
  /// Bytes gone through so far, of how many. Cheap: may be called for each chunk.
  func report(done: UInt64, total: UInt64)
  func log(_ level: JobLogEntry.Level, _ message: String)
  /// Called between chunks: waits while the job is paused; throws `CancellationError` once it is cancelled.
  func checkpoint() async throws
  /// Called once, before the first byte of an existing target is overwritten; what it throws keeps that from happening.
  func willOverwrite() async throws
}
