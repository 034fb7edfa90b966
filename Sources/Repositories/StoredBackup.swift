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

  /// The hashes, with the device to close when they aren't needed any more. What an increment's file leaves out is read
  /// from those below, which are opened when they are needed.
  /// - Parameter cachedPageCount: pages of each level in memory, 4 KiB each; one stands for 8 MiB of the guest's data.
  /// - Throws: `backupCorrupt` where they aren't what the manifest says.
  nonisolated(nonsending)
    package func openHashes(
      work: any BackgroundWork, cachedPageCount: Int = HashTreeReader.cachedPageCount
    ) async throws -> (reader: HashTreeReader, device: any BlockDevice)
  {
    do {
      let file = try await openHashFile()
      let inherited = file.header.isOverParent ? InheritedHashFiles(below: self, work: work) : nil
      let reader = HashTreeReader(file, over: inherited, work: work, cachedPageCount: cachedPageCount)
      return (reader, inherited.map { HashFiles(file.device, $0) } ?? file.device)
    } catch {
      throw DomainError(error, of: hashesName)
    }
  }

  /// The backup's own hash file.
  nonisolated(nonsending)
    func openHashFile() async throws(HashTreeReader.Failure) -> HashFile
  {
    let device: any BlockDevice
    do {
      device = try await repository.openHashes(of: location)
    } catch {
      throw .refused(DomainError(any: error, of: hashesName))
    }
    do throws(HashTreeReader.Failure) {
      return try await HashFile(
        device, expecting: Digest(hexadecimal: manifest.merkleRoot) ?? .zero, byteCount: manifest.virtualSize,
        backup: manifest.backup, name: hashesName)
    } catch {
      try? await device.close()
      throw error
    }
  }

  /// The data, as a guest would see them.
  /// - Throws: `backupCorrupt` where they aren't what the manifest says.
  nonisolated(nonsending)
    package func openData() async throws -> any BlockDevice
  {
    try await repository.openData(of: manifest, at: location)
  }
}
