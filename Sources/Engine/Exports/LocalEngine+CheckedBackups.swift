import BlockCore
import BlockFilters
import Failures
import Model
import Repositories

extension LocalEngine {
  /// Of each level. The lowest stands for 2 GiB of the guest's disk.
  private static let cachedHashPageCount = 256

  /// What the export shows.
  nonisolated(nonsending)
    func openChecked(_ stored: StoredBackup, for export: ResourceName) async throws -> CheckedBackup
  {
    let (place, reader) = (stored.location, "a reader of export '\(export)'")
    return try await noting(stored, reader) {
      try await openChecked(stored) { [weak self] damage in self?.note(damage, of: place, by: reader) }
    }
  }

  /// The guest's disk, held against the hashes. Nothing is given out unchecked: without its hashes a backup can't be
  /// opened.
  nonisolated(nonsending)
    func openChecked(
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
}
