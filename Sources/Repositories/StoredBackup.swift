import Bytes
import BlockCore
import Failures
import Model

/// A stored backup whose manifest was read: opens its files and holds them against it.
package struct StoredBackup: Sendable {
  package let manifest: Manifest
  package let location: StoredBackupLocation
  package let repository: any BackupRepository

  package init(manifest: Manifest, location: StoredBackupLocation, repository: any BackupRepository) {
    self.manifest = manifest
    self.location = location
    self.repository = repository
  }

  package var dataName: String { repository.name(of: .data, location) }
  package var hashesName: String { repository.name(of: .hashes, location) }

  /// The hashes, with the device to close when they aren't needed any more.
  /// - Throws: `backupCorrupt` where they aren't what the manifest says.
  nonisolated(nonsending)
    package func openHashes(work: any BackgroundWork) async throws -> (reader: HashTreeReader, device: any BlockDevice)
  {
    let device = try await repository.openHashes(of: location)
    return try await attempt {
      do throws(HashTreeReader.Failure) {
        let reader = try await HashTreeReader(
          device, expecting: Digest(hexadecimal: manifest.merkleRoot) ?? .zero, byteCount: manifest.virtualSize,
          backup: manifest.backup, work: work)
        return (reader, device)
      } catch {
        throw DomainError(error, of: hashesName)
      }
    } orCleanUp: {
      try? await device.close()
    }
  }

  /// The data, as a guest would see them.
  /// - Throws: `backupCorrupt` where they aren't what the manifest says.
  nonisolated(nonsending)
    package func openData() async throws -> StoredData
  {
    try await repository.openData(of: manifest, at: location)
  }
}
