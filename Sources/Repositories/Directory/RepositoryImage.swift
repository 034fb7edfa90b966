import BlockCore
import Buffers
import Descriptors
import EventLoops
import Failures
import Glibc
import Model
import Qcow2

/// Opens the data files of a repository, through the repository's own files: whatever they name must lie in there.
struct RepositoryImageOpener: Sendable {
  let repository: RepositoryFolder
  let work: any BackgroundWork
  let pool: BufferPool
  let loop: EventLoop

  /// The data of a stored backup, with all that they build on: a chain through one map.
  /// - Throws: `backupCorrupt` where they aren't what the manifests say.
  nonisolated(nonsending)
    func openData(_ manifest: Manifest, at place: StoredBackupLocation) async throws -> any BlockDevice
  {
    let links = try await loop.blocking(about: place.folder) { [repository] in
      try repository.ancestry(of: manifest, at: place)
    }
    guard links.count > 1 else { return try await open(manifest, at: place) }
    return try await ChainImage.open(layers(links), work: work, pool: pool)
  }

  /// The backup's own file, by itself.
  nonisolated(nonsending)
    func openTables(at place: StoredBackupLocation) async throws -> Qcow2Image
  {
    let device = try await openFile(place.path(.data))
    let image = try await telling(about: place.fullPath(.data), damage: .backupCorrupt) {
      try await attempt {
        try await Qcow2Image.open(device, options: .init(), backing: .ignored, work: work, pool: pool)
      } orCleanUp: {
        try? await device.close()
      }
    }
    return try await requireIdentity(of: image, at: place)
  }

  /// Closes the data of another backup.
  nonisolated(nonsending)
    private func requireIdentity(of image: Qcow2Image, at place: StoredBackupLocation) async throws -> Qcow2Image
  {
    guard image.isWhatItSays(place.backup.ulid.bits) else {
      try? await image.close()
      throw DomainError(
        .backupCorrupt, "\(place.fullPath(.data)) is the data of another backup", remedy: "use another backup")
    }
    return image
  }

  private func layers(_ links: [ChainLink]) -> [ChainLayer] {
    links.indices.map { index in
      let (link, below) = (links[index], index + 1 < links.count ? links[index + 1] : nil)
      return ChainLayer(
        name: link.place.fullPath(.data), byteCount: Qcow2Image.byteCount(holding: link.manifest.virtualSize),
        backingName: below?.place.name(.data), identity: link.place.backup.ulid.bits
      ) { try await openFile(link.place.path(.data)) }
    }
  }

  /// The data file of a stored backup, read-only, stacked on what it builds on.
  /// - Throws: `backupCorrupt` where it isn't what the manifest says.
  nonisolated(nonsending)
    private func open(_ manifest: Manifest, at place: StoredBackupLocation) async throws -> Qcow2Image
  {
    let path = place.path(.data)
    let backing = try await backingName(of: place)
    let expected = try await expectedBackingName(manifest, place)
    guard backing == expected else {
      throw DomainError(
        .backupCorrupt,
        "\(place.fullPath(.data)) builds on \(backing ?? "nothing") instead of \(expected ?? "nothing")",
        remedy: "use another backup")
    }
    let image = try await requireIdentity(of: try await open(path, depth: 0, above: []), at: place)
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
    private func backingName(of place: StoredBackupLocation) async throws -> String?
  {
    let device = try await openFile(place.path(.data))
    return try await closing([device]) {
      try await telling(about: place.fullPath(.data), damage: .backupCorrupt) {
        try await Qcow2Description.read(from: device, pool: pool).backing?.name
      }
    }
  }

  /// What the data file must build on: the data of the manifest's parent.
  nonisolated(nonsending)
    private func expectedBackingName(_ manifest: Manifest, _ place: StoredBackupLocation) async throws -> String?
  {
    try await loop.blocking(about: place.folder) { [repository] in
      try repository.parent(of: manifest, at: place)?.name(.data)
    }
  }

  nonisolated(nonsending)
    func openFile(_ path: String, isReadOnly: Bool = true) async throws -> any BlockDevice
  {
    let files = repository.files
    return try await telling(about: full(path), damage: .backupCorrupt) {
      let file: FileDescriptor
      do throws(SystemError) {
        file = try await loop.blocking { () throws(SystemError) in try files.openFile(path, isReadOnly: isReadOnly) }
      } catch {
        guard error.code == ENOENT || error.isOfWhatHasTheName else { throw error }
        let why = error.code == ENOENT ? "is missing" : "isn't the file that was stored: \(error)"
        throw DomainError(.backupCorrupt, "\(full(path)) \(why)", remedy: "use another backup")
      }
      return try await files.device(over: file, isReadOnly: isReadOnly, direct: false, on: loop)
    }
  }

  private func full(_ path: String) -> String { "\(repository.location.path)/\(path)" }

  nonisolated(nonsending)
    private func open(
      _ path: String, depth: Int, above: [String], tableByteCountAbove: Int = 0
    ) async throws -> Qcow2Image
  {
    let device = try await openFile(path)
    return try await telling(about: full(path), damage: .backupCorrupt) {
      try await attempt {
        let options = Qcow2Image.OpenOptions(
          layer: depth, isReadOnly: true, tableByteCountAbove: tableByteCountAbove)
        let resolver: BackingResolver = { [self] reference in
          let below = try backingPath(reference, of: path)
          guard !(above + [path]).contains(below) else {
            throw DomainError(.backupCorrupt, "\(full(path)) leads back to \(below)", remedy: "use another backup")
          }
          return try await open(
            below, depth: reference.depth, above: above + [path], tableByteCountAbove: reference.tableByteCountAbove)
        }
        return try await Qcow2Image.open(
          device, options: options, backing: .resolve(resolver), work: work, pool: pool)
      } orCleanUp: {
        try? await device.close()
      }
    }
  }

  /// A backup builds on a qcow2 file of its own chain's folder, named without any folder.
  private func backingPath(_ reference: BackingReference, of path: String) throws(DomainError) -> String {
    let name = reference.name
    // What holds none of these is neither a path out of the folder nor `json:` or the name of a protocol.
    let isBeside = !name.isEmpty && name != "." && name != ".." && !name.contains { "/:\0".contains($0) }
    guard reference.format == DiskFormat.qcow2.rawValue, isBeside else {
      throw DomainError(
        .backingRefused, "\(full(path)) builds on '\(name)': a backup builds only on qcow2 files beside it",
        remedy: "use another backup")
    }
    return "\(FilePath.folder(of: path))/\(name)"
  }
}

extension ULID {
  /// As an image's identity.
  package var bits: UInt128 { UInt128(high) << 64 | UInt128(low) }
}

extension Qcow2Image {
  /// Whether the image is the one that is expected, or was made before images said what they are.
  func isWhatItSays(_ expected: UInt128?) -> Bool { identity == nil || expected == nil || identity == expected }

  /// The size of an image for so many bytes of a guest: a multiple of 512, as the format wants it.
  package static func byteCount(holding guestByteCount: UInt64) -> UInt64 { (guestByteCount + 511) / 512 * 512 }
}
