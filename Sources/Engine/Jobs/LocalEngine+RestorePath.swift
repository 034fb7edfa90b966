import EventLoops
import Failures
import Model
import Repositories

extension LocalEngine {
  package func restorePath(to backup: StoredBackupLocation) async throws -> RestorePath {
    try await onLoop(in: backup.repository.lane) { [self] loop in
      let repository = try await open(backup.repository, on: loop)
      var findings = Findings()
      var path: [StoredBackup] = []
      if let stored = try await findings.collect({ try await repository.stored(backup) }) {
        path = try await findings.path(to: stored)
        for stored in path { try await check(stored, &findings) }
        // Each file may be sound, and not be what the one above it builds on.
        if findings.count == 0, let data = try await findings.collect({ try await stored.openData() }) {
          try await closing([data]) {}
        }
      }
      return RestorePath(
        backups: path.map(\.manifest.backup), findings: findings.texts, findingCount: findings.count)
    }
  }

  /// The backup's own files, each by itself.
  nonisolated(nonsending)
    private func check(_ stored: StoredBackup, _ findings: inout Findings) async throws
  {
    try Task.checkCancellation()
    _ = try await findings.collect { try await stored.openHashes(work: work).device.close() }
    try await checkTables(of: stored, &findings, nil)
  }
}

extension Findings {
  /// From the full to the backup; where one is missing, what builds on it.
  nonisolated(nonsending)
    fileprivate mutating func path(to stored: StoredBackup) async throws -> [StoredBackup]
  {
    do {
      return try await stored.repository.ancestry(of: stored).reversed() + [stored]
    } catch let error as DomainError where error.code.isDamageOfABackup {
      // Link by link, up to the one that is damaged.
      var path = [stored]
      for _ in Manifest.sequences {
        let top = path[path.count - 1]
        guard let parent = try await collect({ try await top.repository.parent(of: top) }) ?? nil else { break }
        path.append(parent)
      }
      if count == 0 { add(error.detail) }
      return path.reversed()
    }
  }
}
