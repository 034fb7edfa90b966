import BlockCore
import EventLoops
import Foundation
import Model
import Qcow2
import Repositories

/// A mistake that a kind of repository could make, which the conformance suite has to find.
enum RepositoryFlaw: CaseIterable, Sendable {
  case listsNothing
  case findsNoManifest
  case keepsDiscardedStages
  case keepsTheLease
  case acceptsAnySequence
  case deletesNothing
  case removesLiveStages
  case removesNothing
  case forgetsNames
  case forgetsChains
  case findsNoParent
  case losesAncestors
  case mixesTrackers
}

/// A kind of repository that is sound but for one mistake.
struct FlawedRepositories: RepositoryKind {
  let next: any RepositoryKind
  let flaw: RepositoryFlaw

  nonisolated(nonsending)
    func open(_ location: RepositoryLocation, on loop: EventLoop) async throws -> any BackupRepository
  {
    FlawedRepository(next: try await next.open(location, on: loop), flaw: flaw)
  }

  nonisolated(nonsending)
    func establish(
      at path: String, id: RepositoryID, now: Date, on loop: EventLoop
    ) async throws -> EstablishedRepository
  {
    try await next.establish(at: path, id: id, now: now, on: loop)
  }
}

private struct FlawedRepository: BackupRepository {
  let next: any BackupRepository
  let flaw: RepositoryFlaw

  var location: RepositoryLocation { next.location }
  var repair: String? { next.repair }
  func name(of backup: StoredBackupLocation) -> String { next.name(of: backup) }
  func name(of file: StoredFile, _ backup: StoredBackupLocation) -> String { next.name(of: file, backup) }

  nonisolated(nonsending)
    func access() async throws -> RepositoryAccess
  { try await next.access() }

  nonisolated(nonsending)
    func scan() async throws -> RepositoryScan
  {
    var scan = try await next.scan()
    if flaw == .listsNothing { scan.backups = [] }
    return scan
  }

  nonisolated(nonsending)
    func recover(isLive: @escaping @Sendable (JobID) -> Bool) async throws -> RecoveryReport
  {
    switch flaw {
    case .removesLiveStages: try await next.recover { _ in false }
    case .removesNothing: try await next.recover { _ in true }
    default: try await next.recover(isLive: isLive)
    }
  }

  nonisolated(nonsending)
    func record(_ image: ImageRecord, job: JobID) async throws
  { if flaw != .forgetsNames { try await next.record(image, job: job) } }

  nonisolated(nonsending)
    func manifest(of backup: StoredBackupLocation) async throws -> Manifest
  {
    if flaw == .findsNoManifest { throw DomainError(.backupNotComplete, "none") }
    return try await next.manifest(of: backup)
  }

  nonisolated(nonsending)
    func openHashes(of backup: StoredBackupLocation) async throws -> any BlockDevice
  { try await next.openHashes(of: backup) }

  nonisolated(nonsending)
    func openData(of manifest: Manifest, at backup: StoredBackupLocation) async throws -> any BlockDevice
  { try await next.openData(of: manifest, at: backup) }

  nonisolated(nonsending)
    func openTables(of backup: StoredBackupLocation) async throws -> Qcow2Image?
  { try await next.openTables(of: backup) }

  nonisolated(nonsending)
    func parent(of backup: StoredBackup) async throws -> StoredBackup?
  { flaw == .findsNoParent ? nil : try await next.parent(of: backup) }

  nonisolated(nonsending)
    func ancestry(of backup: StoredBackup) async throws -> [StoredBackup]
  {
    let ancestry = try await next.ancestry(of: backup)
    return flaw == .losesAncestors ? Array(ancestry.prefix(1)) : ancestry
  }

  nonisolated(nonsending)
    func newestChain(of image: ImageID, tracker: TrackerName) async throws -> StoredChain?
  {
    switch flaw {
    case .forgetsChains: nil
    case .mixesTrackers: try await next.newestChain(of: image, tracker: .standard(of: location.id))
    default: try await next.newestChain(of: image, tracker: tracker)
    }
  }

  func backingName(_ parent: StoredBackupLocation) -> String { next.backingName(parent) }

  nonisolated(nonsending)
    func takeLease(on image: ImageID, control: any JobControl) async throws -> any RepositoryLease
  { FlawedLease(next: try await next.takeLease(on: image, control: control), flaw: flaw) }

  nonisolated(nonsending)
    func delete(_ backup: StoredBackupLocation, control: any JobControl) async throws
  { if flaw != .deletesNothing { try await next.delete(backup, control: control) } }
}

private struct FlawedLease: RepositoryLease {
  let next: any RepositoryLease
  let flaw: RepositoryFlaw

  var epoch: UInt64 { next.epoch }

  nonisolated(nonsending)
    func begin(_ backup: StoredBackupLocation, of image: ImageRecord, for job: JobID) async throws -> any BackupStage
  {
    var backup = backup
    if flaw == .acceptsAnySequence { backup.sequence = min(backup.sequence, Manifest.sequences.upperBound) }
    return FlawedStage(next: try await next.begin(backup, of: image, for: job), flaw: flaw)
  }

  nonisolated(nonsending)
    func giveBack() async
  { if flaw != .keepsTheLease { await next.giveBack() } }
}

private struct FlawedStage: BackupStage {
  let next: any BackupStage
  let flaw: RepositoryFlaw

  var backup: StoredBackupLocation { next.backup }

  nonisolated(nonsending)
    func create(_ file: StoredFile) async throws -> any BlockDevice
  { try await next.create(file) }

  nonisolated(nonsending)
    func publish(_ manifest: Manifest) async throws -> UInt64
  { try await next.publish(manifest) }

  nonisolated(nonsending)
    func discard() async -> [String]
  { flaw == .keepsDiscardedStages ? [] : await next.discard() }
}
