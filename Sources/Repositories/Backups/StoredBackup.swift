import Bytes
import BlockCore
import Failures
import Model
import Qcow2

/// A stored backup whose manifest was read: opens its files and holds them against it.
package struct StoredBackup {
  package let manifest: Manifest
  package let place: StoredBackupLocation
  private let opener: RepositoryImageOpener

  package init(manifest: Manifest, place: StoredBackupLocation, opener: RepositoryImageOpener) {
    self.manifest = manifest
    self.place = place
    self.opener = opener
  }

  /// The hashes, with the device to close when they aren't needed any more.
  /// - Throws: `backupCorrupt` where they aren't what the manifest says.
  nonisolated(nonsending)
    package func openHashes() async throws -> (reader: HashTreeReader, device: any BlockDevice)
  {
    let device = try await opener.openFile(place.path(.hashes))
    return try await attempt {
      do throws(HashTreeReader.Failure) {
        let reader = try await HashTreeReader(
          device, expecting: Digest(hexadecimal: manifest.merkleRoot) ?? .zero, byteCount: manifest.virtualSize,
          backup: manifest.backup)
        return (reader, device)
      } catch {
        throw DomainError(error, of: place.fullPath(.hashes))
      }
    } orCleanUp: {
      try? await device.close()
    }
  }

  /// The data, as a guest would see it.
  /// - Throws: `backupCorrupt` where it isn't what the manifest says.
  nonisolated(nonsending)
    package func openData() async throws -> Qcow2Image
  {
    let path = place.path(.data)
    let backing = try await backingName()
    let expected = try await expectedBackingName()
    guard backing == expected else {
      throw DomainError(
        .backupCorrupt,
        "\(place.fullPath(.data)) builds on \(backing ?? "nothing") instead of \(expected ?? "nothing")",
        remedy: "use another backup")
    }
    let image = try await opener.open(path)
    let byteCount = Qcow2Image.byteCount(holding: manifest.virtualSize)
    guard image.byteCount == byteCount else {
      let found = image.byteCount
      try? await image.close()
      throw DomainError(
        .backupCorrupt, "\(place.fullPath(.data)) is of \(found) bytes instead of \(byteCount)",
        remedy: "use another backup")
    }
    return image
  }

  nonisolated(nonsending)
    private func backingName() async throws -> String?
  {
    let device = try await opener.openFile(place.path(.data))
    return try await closing([device]) {
      try await telling(about: place.fullPath(.data), damage: .backupCorrupt) {
        try await Qcow2Description.read(from: device, pool: opener.pool).backing?.name
      }
    }
  }

  /// What the data file must build on: the data of the manifest's parent, which must have the root that it had then.
  nonisolated(nonsending)
    private func expectedBackingName() async throws -> String?
  {
    guard let parent = manifest.parent else { return nil }
    let repository = opener.repository
    let place = place
    return try await opener.loop.blocking(about: place.folder) {
      let entries = try repository.files.entries(of: place.folder, limit: DirectoryRepository.maximumEntryCount)
      let file = entries.compactMap { BackupFileName($0.name) }
        .first { $0.backup == parent.backup && $0.part == .manifest }
      guard let file else {
        throw DomainError(.backupCorrupt, "the parent \(parent.backup) of \(place.backup) is missing")
      }
      var other = place
      other.sequence = file.sequence
      other.backup = file.backup
      guard try repository.manifest(other).merkleRoot == parent.merkleRoot else {
        throw DomainError(.backupCorrupt, "the parent \(parent.backup) of \(place.backup) isn't what it was")
      }
      return other.name(.data)
    }
  }
}

extension Qcow2Image {
  /// The size of an image for so many bytes of a guest: a multiple of 512, as the format wants it.
  package static func byteCount(holding guestByteCount: UInt64) -> UInt64 { (guestByteCount + 511) / 512 * 512 }
}
