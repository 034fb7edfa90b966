import Model

/// What a change would make or change, as far as it is known beforehand: without the ids that it would get.
package enum PlannedResource: Hashable, Sendable {
  /// As it would be; where it is to go, as it is.
  case image(Image)
  case repository(RepositoryDraft)
  case export(Export)
  case fleecing(Fleecing, lifetime: Int)
  case fleecingEnd(FleecingID, Fleecing.Outcome?)
  case renewal(of: FleecingID, lifetime: Int)
  case released([FleecedExtent], of: ImageID, in: FleecingID)

  case repositoryName(ResourceName, path: String)
  case exportEnd(ExportID, name: ResourceName)
  case clearedImage(ResourceName)
  case job(JobID, next: JobState)

  case attachment(of: ImageID, cache: CacheMode?)
  case detachment(of: ImageID)
  case check(of: ImageID, repairsLeaks: Bool)
  case rescan(of: RepositoryID)
  case backups(of: [ImageID], into: RepositoryID, RequestedBackupKind, Compression, speedLimit: UInt64)
  case verification(of: BackupID, VerifyLevel)
  case chainVerification(of: ChainID, VerifyLevel)
  case tracker(TrackerName, of: ImageID)
  case restore(of: BackupID)
  case groupRestore(of: ULID, [BackupID])
  case deletion(of: BackupID)
  case reconciliation(of: ImageID, [TrackingDisagreement])
  /// After the changes.
  case bitmaps([ChangedBitmap])
}
