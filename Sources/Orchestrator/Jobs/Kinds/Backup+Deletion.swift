import Foundation
import Model

// How a deletion shows in its backup's row.
//
// E1. The transaction that begins a deletion makes the row `failed`, before the first file is touched, and keeps what
//     the backup was. Whatever ends the work, no row of a backup that is half deleted says `complete`.
// E2. What the repository holds settles the deletion: the row goes where there is no manifest, and is what it was where
//     manifest and files are whole. The end of the job settles it, and so does each recovery and each rescan, whoever
//     interrupted the job.
// E3. What can't be told leaves the row `failed`: a repository that can't be read, or a manifest that can't be.

extension Backup {
  /// Again, if a deletion before was cut short: the backup is still what it was before the first one.
  mutating func beginDeletion() {
    beforeDeletion = beforeDeletion ?? BeforeDeletion(state: state, failure: failure)
    state = .failed
    failure = "its deletion has begun"
  }

  /// Settles a deletion that began, where the repository still has the manifest.
  mutating func survive(as held: Backup) {
    let before = beforeDeletion
    beforeDeletion = nil
    guard held.state == .complete else {
      (state, failure) = (held.state, held.failure)
      return
    }
    switch before?.state {
    case .complete, .corrupt, .expired: (state, failure) = (before?.state ?? .complete, before?.failure)
    case .failed, .running, nil: complete(as: held)
    }
  }
}

/// What a scan tells of the backups that a repository holds.
struct HeldBackups: Sendable {
  private let backups: [BackupID: Backup]
  private let unreadable: Set<BackupID>

  init(_ scan: RepositoryScan) {
    backups = Dictionary(scan.backups.map { ($0.id, $0) }) { first, _ in first }
    unreadable = scan.unreadable
  }

  subscript(id: BackupID) -> Backup? { backups[id] }

  /// Whether there is a manifest that can't be read.
  func isUnreadable(_ id: BackupID) -> Bool { unreadable.contains(id) }
}

extension CatalogTransaction {
  /// Settles the deletion of the backup, if one began.
  func settleDeletion(of id: BackupID, by held: HeldBackups, job: JobID?) throws {
    guard var backup = try catalog.backup(id), backup.beforeDeletion != nil, !held.isUnreadable(id) else { return }
    guard let whole = held[id] else { return try forget(id, job: job) }
    backup.survive(as: whole)
    try update(backup, job: job)
  }

  /// Removes the backup's row, and its chain's if that was the last one. Does nothing if it is gone.
  func forget(_ id: BackupID, job: JobID?) throws {
    guard let backup = try catalog.backup(id) else { return }
    try delete(backup, job: job)
    let rest = try catalog.backups(BackupFilter(chain: backup.chain), PageRequest(limit: 1))
    if rest.items.isEmpty { try delete(backup.chain) }
  }
}

extension CatalogReading {
  /// The repository's backups whose deletion began and isn't settled.
  func begunDeletions(in repository: RepositoryID) throws -> [BackupID] {
    let failed = BackupFilter(repository: repository, state: .failed)
    return try allPages { try backups(failed, $0) }.filter { $0.beforeDeletion != nil }.map(\.id)
  }
}
