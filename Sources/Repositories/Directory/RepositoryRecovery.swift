import EventLoops
import Failures
import Glibc
import Model

/// Puts a repository right after a crash, carefully: others may be writing to it.
///
/// - Work files are removed only if they are this server's own and their job isn't alive.
/// - A finished data or hash file without a manifest is moved to `quarantine/`, where the image's lease could be had at
///   once (so no writer is about to publish it), and unless another file builds on it.
/// - Where a tombstone says that the backup was deleted, the deletion is finished.
/// - What lies in `trash/` stays.
struct RepositoryRecovery: Sendable {
  let repository: RepositoryFolder
  let leases: LeaseTable
  let tombstones: TombstoneWatch
  /// Whether the job may still be writing.
  let isLive: @Sendable (JobID) -> Bool

  nonisolated(nonsending)
    func run(on loop: EventLoop) async throws -> RecoveryReport
  {
    var report = RecoveryReport(removed: [], quarantined: [])
    let images = try await loop.blocking(about: repository.location.path) { [self] in
      try removeWorkFiles(in: ".") + (try imageFolders())
    }
    report.removed += images.filter { $0.hasSuffix(PartFileName.suffix) }
    for folder in images where !folder.hasSuffix(PartFileName.suffix) {
      guard let image = ImageID(FilePath.name(of: folder)) else { continue }
      report.removed += try await loop.blocking(about: folder) { [self] in try removeWorkFiles(ofImage: folder) }
      report.quarantined += try await settle(image, on: loop)
    }
    return report
  }

  private var files: any FolderFiles { repository.files }

  private func entries(_ path: String) throws(SystemError) -> [FolderEntry] {
    try files.entries(of: path, limit: RepositoryFolder.maximumEntryCount)
  }

  private func imageFolders() throws(SystemError) -> [String] {
    guard try files.status(of: RepositoryPath.images) != nil else { return [] }
    return try entries(RepositoryPath.images).filter { $0.kind == .folder }
      .map { "\(RepositoryPath.images)/\($0.name)" }
  }

  private func chainFolders(_ imageFolder: String) throws(SystemError) -> [String] {
    try entries(imageFolder).filter { $0.kind == .folder && ChainID($0.name) != nil }
      .map { "\(imageFolder)/\($0.name)" }
  }

  private func removeWorkFiles(ofImage folder: String) throws(SystemError) -> [String] {
    var removed = try removeWorkFiles(in: folder)
    for chain in try chainFolders(folder) {
      removed += try removeWorkFiles(in: chain)
      // Stays if anything is in it.
      try? files.removeFolder(chain)
    }
    return removed
  }

  /// The paths of what was removed.
  private func removeWorkFiles(in folder: String) throws(SystemError) -> [String] {
    var removed: [String] = []
    for entry in try entries(folder) {
      guard let part = PartFileName(entry.name), part.writer == repository.writer, !isLive(part.job)
      else { continue }
      let path = folder == "." ? entry.name : "\(folder)/\(entry.name)"
      if try files.removeIfPresent(path) { removed.append(path) }
    }
    if !removed.isEmpty { try files.synchronizeFolder(folder) }
    return removed
  }

  /// Sets aside finished files that belong to no backup, and finishes deletions. The paths of what was set aside.
  nonisolated(nonsending)
    private func settle(_ image: ImageID, on loop: EventLoop) async throws -> [String]
  {
    let imageFolder = RepositoryPath.image(image)
    let chains = try await loop.blocking(about: imageFolder) { [self] in
      try chainFolders(imageFolder).filter { try !unclaimed(in: $0).isEmpty }
    }
    var references: [String: ChainReferences] = [:]
    for chain in chains { references[chain] = try await ChainReferences.read(chain, of: repository, on: loop) }
    let known = references
    return try await leases.withIdleLease(on: image, of: repository, loop: loop) { [self] lease in
      try tombstones.sweep(image, of: repository)
      var moved: [String] = []
      for (chain, references) in known { moved += try setAside(in: chain, references, lease) }
      return moved
    } ?? []
  }

  /// Files of backups in the folder that have no manifest: name → whether a tombstone explains it.
  private func unclaimed(in folder: String) throws(SystemError) -> [BackupFileName: Bool] {
    let names = try entries(folder).compactMap { BackupFileName($0.name) }
    let complete = Set(names.filter { $0.part == .manifest }.map(\.backup))
    let deleted = Set(names.filter { $0.part == .tombstone }.map(\.backup))
    var found: [BackupFileName: Bool] = [:]
    for name in names where name.part == .data || name.part == .hashes {
      if !complete.contains(name.backup) { found[name] = deleted.contains(name.backup) }
    }
    return found
  }

  private func setAside(in folder: String, _ references: ChainReferences, _ lease: Lease) throws -> [String] {
    var moved: [String] = []
    for (name, isDeleted) in try unclaimed(in: folder).sorted(by: { $0.key.text < $1.key.text }) {
      var data = name
      data.part = .data
      if let user = references.user(of: data.text), BackupFileName(user)?.backup != name.backup { continue }
      try lease.confirm()
      let path = "\(folder)/\(name.text)"
      if isDeleted {
        _ = try files.removeIfPresent(path)
      } else {
        moved.append(try quarantine(path, chain: FilePath.name(of: folder), name))
      }
    }
    try files.synchronizeFolder(folder)
    if !moved.isEmpty { try files.synchronizeFolder(RepositoryPath.quarantine) }
    // Stays if anything is in it.
    try? files.removeFolder(folder)
    return moved
  }

  private func quarantine(_ path: String, chain: String, _ name: BackupFileName) throws(SystemError) -> String {
    _ = try files.ensureFolder(RepositoryPath.quarantine)
    let target = "\(RepositoryPath.quarantine)/\(chain)-\(name.text)"
    try files.rename(path, to: target, isReplacing: false)
    return target
  }
}
