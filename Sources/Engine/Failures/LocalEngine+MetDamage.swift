import BlockCore
import Failures
import Model
import Repositories

// What becomes of damage that readers of backups meet: clients of exports, and restores. The reader has its error at once.
// Then the backup is found whose file is wrong, and the service is told, which marks that and what builds on it.

/// What a reader met that isn't what was backed up.
package struct MetDamage: Hashable, Sendable {
  /// Of the guest's disk.
  package var range: ByteRange
  /// A sentence that names the file.
  package var text: String
}

extension LocalEngine {
  /// Bytes of a damaged place that are read of each backup that may be its origin.
  private static let searchedByteCount: UInt64 = 1 << 20

  /// A reader met damage. Returns at once.
  /// - Parameter reader: in words.
  func note(_ damage: MetDamage, of backup: StoredBackupLocation, by reader: String) {
    logger.error(
      "damage of a backup was met",
      metadata: ["by": "\(reader)", "backup": "\(backup.backup)", "damage": "\(damage.text)"])
    calls.begin(nil)
    Task {
      let origin = await origin(of: damage, in: backup)
      deliver(BackupDamage(backup: origin.backup, detail: "\(origin.text), as \(reader) met"))
      calls.end(nil)
    }
  }

  /// Runs `body`, which reads the backup; that it is damaged is noted.
  /// - Parameter place: where it is, once that is known. Else what can't be opened is looked for.
  nonisolated(nonsending)
    func noting<Result>(
      _ stored: StoredBackup, _ reader: String, at place: () -> ByteRange? = { nil }, _ body: () async throws -> Result
    ) async throws -> Result
  {
    do {
      return try await body()
    } catch let error as DomainError where error.code == .backupCorrupt {
      let range = place() ?? ByteRange(offset: 0, length: 1)
      note(MetDamage(range: range, text: error.detail), of: stored.location, by: reader)
      throw error
    }
  }

  /// The lowest backup of the path that is wrong at that place, right above one that isn't; the one that was read where
  /// that can't be told. What is wrong below is wrong above, until something above overwrites it; what was read isn't
  /// overwritten. So halving finds it, however long the path.
  private func origin(
    of damage: MetDamage, in place: StoredBackupLocation
  ) async -> (backup: BackupID, text: String) {
    do {
      return try await onLoop(in: place.repository.lane) { [self] loop in
        let stored = try await open(place.repository, on: loop).stored(place)
        let path = [stored] + (try await stored.repository.ancestry(of: stored))
        var (origin, text, sound) = (0, damage.text, path.count)
        while sound - origin > 1 {
          let middle = (origin + sound) / 2
          if let found = try await self.damage(of: path[middle], in: damage.range) {
            (origin, text) = (middle, found)
          } else {
            sound = middle
          }
        }
        return (path[origin].manifest.backup, text)
      }
    } catch {
      logger.warning(
        "which backup's file is damaged can't be told",
        metadata: ["backup": "\(place.backup)", "error": "\(error)"])
      return (place.backup, damage.text)
    }
  }

  /// What is wrong with the backup there; nil if nothing is.
  nonisolated(nonsending)
    private func damage(of stored: StoredBackup, in range: ByteRange) async throws -> String?
  {
    do {
      guard let range = range.intersection(ByteRange(0..<stored.manifest.virtualSize)) else { return nil }
      let checked = try await openChecked(stored) { _ in }
      return try await closing([checked]) {
        _ = try await checked.blockStatus(range, limit: 1)
        var buffer = pool.take(Int(min(range.length, Self.searchedByteCount)))
        var all = buffer.mutableBytes
        var span = all.part(0..<Int(min(range.length, Self.searchedByteCount)))
        try await checked.read(into: &span, at: range.offset)
        return nil
      }
    } catch let error as BlockError {
      guard case .corrupt(let text) = error.kind else { throw error }
      return text
    } catch let error as DomainError where error.code.isDamageOfABackup {
      return error.detail
    }
  }
}
