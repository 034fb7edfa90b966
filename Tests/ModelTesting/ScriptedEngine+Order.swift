import Model

extension ScriptedEngine {
  /// What it was asked to do, in the order of the calls.
  package enum Order: Hashable, Sendable {
    case suggestFormat(ImageSource)
    case inspect(ImageLocation)
    case resolveTarget(String)
    case identities([ImageSource])
    case extents(ImageLocation, offset: UInt64, length: UInt64?, limit: Int)
    case attach(AttachOrder, job: JobID)
    case detach(ImageID)
    case export(ExportOrder)
    case setContexts(ExportOrder)
    case withdraw(ExportID, ExportRemoval)
    case openRepository(path: String, id: RepositoryID)
    case access(RepositoryLocation)
    case scan(RepositoryLocation)
    case recover(RepositoryLocation, liveJobs: Set<JobID>)
    case removeRestoreLeftovers(liveJobs: Set<JobID>)
    case record(ImageRecord, RepositoryLocation)
    case backUp(BackupOrder, job: JobID)
    case verify(VerifyOrder, job: JobID)
    case restorePath(StoredBackupLocation)
    case returnCheckpoint(CheckpointReturn)
    case restoreChoice(RestoreOrder)
    case removeTracking(ImageLocation, TrackerName?)
    case tracking(ImageLocation)
    case repairTracking(TrackingRepair)
    case restore(RestoreOrder, job: JobID)
    case delete(StoredBackupLocation, job: JobID)
    case storedExtents(StoredBackupLocation, StoredExtentQuery)
    case differences(StoredBackupLocation, from: StoredBackupLocation, StoredExtentQuery)
    case check(CheckOrder, job: JobID)
    case bitmaps(BitmapImage)
    case bitmap(BitmapName, BitmapImage)
    case changeBitmaps(BitmapOrder)
    case bits(BitmapName, BitmapImage)
    case dirtyExtents(BitmapName, BitmapImage, StoredExtentQuery)
    case shutDown
  }
}
