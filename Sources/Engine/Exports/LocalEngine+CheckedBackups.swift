import BlockCore
import BlockFilters
import Failures
import Model
import Repositories

// What is exported of a backup, and what becomes of damage that a reader of it meets: the reader has its error at once;
// then the backup is found whose file is wrong, and the service is told, which marks that and what builds on it.

extension LocalEngine {
  /// Of each level. The lowest stands for 2 GiB of the guest's disk.
  private static let cachedHashPageCount = 256
  /// Bytes of a damaged place that are read of each backup that may be its origin.
  private static let searchedByteCount: UInt64 = 1 << 20

  /// What the export shows. Damage that keeps it from being opened is noted like that which a reader meets.
  nonisolated(nonsending)
    func openChecked(_ stored: StoredBackup, for export: ResourceName) async throws -> CheckedBackup
  {
    let place = stored.location
    do {
      return try await openChecked(stored) { [weak self] damage in self?.note(damage, of: place, in: export) }
    } catch let error as DomainError where error.code == .backupCorrupt {
      note(MetDamage(range: ByteRange(offset: 0, length: 1), text: error.detail), of: place, in: export)
      throw error
    }
  }

  /// The guest's disk, held against the hashes. Nothing is given out unchecked: without its hashes a backup can't be
  /// opened.
  nonisolated(nonsending)
    private func openChecked(
      _ stored: StoredBackup, report: @Sendable @escaping (MetDamage) -> Void
    ) async throws -> CheckedBackup
  {
    let hashes = try await stored.openHashes(work: work, cachedPageCount: Self.cachedHashPageCount)
    return try await attempt {
      let data = Window(try await stored.openData(), byteCount: stored.manifest.virtualSize)
      return CheckedBackup(
        data, against: hashes, names: (stored.dataName, stored.hashesName), work: work, report: report)
    } orCleanUp: {
      try? await hashes.device.close()
    }
  }

  /// A reader of the export met damage. Returns at once.
  func note(_ damage: MetDamage, of backup: StoredBackupLocation, in export: ResourceName) {
    logger.error(
      "a reader of an exported backup met damage",
      metadata: ["export": "\(export)", "backup": "\(backup.backup)", "damage": "\(damage.text)"])
    calls.begin(nil)
    Task {
      let origin = await origin(of: damage, in: backup)
      deliver(BackupDamage(backup: origin.backup, detail: "\(origin.text), as a reader of export '\(export)' met"))
      calls.end(nil)
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
