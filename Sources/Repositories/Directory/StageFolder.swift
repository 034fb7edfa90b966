import Descriptors
import EventLoops
import Glibc
import Model

/// The files of one backup while it is being written, until they are published or discarded. All calls block.
///
/// The order that makes a manifest's existence mean "complete":
///
/// 1. The repository's path still leads to the open folder. Data and hashes were written under names of work files, and
///    are made durable.
/// 2. They get their names; the chain's, the image's and the outer folders are made durable, up to the root.
/// 3. The manifest is written as a work file and made durable.
/// 4. The lease is confirmed, that the repository's path leads to the open folder, and that what the backup builds on
///    is there as it was. The manifest is renamed without replacing anything, and its folder made durable.
/// 5. The path is looked at once more: a repository that was moved away by then has no complete backup.
struct StageFolder: Sendable {
  let repository: RepositoryFolder
  let place: StoredBackupLocation
  private let image: ImageRecord
  private let job: JobID

  init(_ repository: RepositoryFolder, _ place: StoredBackupLocation, image: ImageRecord, job: JobID) {
    self.repository = repository
    self.place = place
    self.image = image
    self.job = job
  }

  private var files: any FolderFiles { repository.files }

  func workPath(_ part: BackupFileName.Part) -> String {
    PartFileName(target: place.path(part), writer: repository.writer, job: job).text
  }

  private static let parts: [BackupFileName.Part] = [.manifest, .hashes, .data]

  /// Refuses a backup beyond the end of its chain, and one that is there already, under any of its names: nothing of
  /// that one is touched.
  func checkVacant() throws {
    guard Manifest.sequences.contains(place.sequence) else {
      throw DomainError(
        .invalidField,
        "the chain \(place.chain) is full: a backup's number in it is at most \(Manifest.sequences.upperBound)",
        remedy: "begin a new chain with a full backup")
    }
    for part in Self.parts + [.tombstone] where try files.status(of: place.path(part)) != nil {
      throw DomainError(
        .targetExists, "\(place.fullPath(part)) exists already", remedy: "start the backup again, with a new id")
    }
  }

  /// How often folders are made anew that another backup of the image, in failing, has just removed.
  private static let folderAttempts = 4

  /// Makes the folders. From here on ``discard()`` is due if anything fails.
  func makeFolders() throws(SystemError) {
    for _ in 1..<Self.folderAttempts {
      do throws(SystemError) { return try ensureFolders() } catch {
        guard error.code == ENOENT else { throw error }
      }
    }
    try ensureFolders()
  }

  private func ensureFolders() throws(SystemError) {
    for folder in [RepositoryPath.images, RepositoryPath.image(place.image), place.folder] {
      _ = try files.ensureFolder(folder)
    }
  }

  func createFile(_ part: BackupFileName.Part) throws -> FileDescriptor {
    try files.createFile(workPath(part))
  }

  /// Makes it all durable and visible, the manifest last.
  /// - Parameter manifest: made when all else is in place.
  func publish(_ manifest: Manifest, lease: Lease) throws {
    try repository.requireInPlace()
    for part in [BackupFileName.Part.data, .hashes] { try makeDurable(workPath(part)) }
    try repository.record(image, job: job)
    try lease.confirm()
    for part in [BackupFileName.Part.data, .hashes] {
      try files.rename(workPath(part), to: place.path(part), isReplacing: false)
    }
    for folder in [place.folder, RepositoryPath.image(place.image), RepositoryPath.images, "."] {
      try files.synchronizeFolder(folder)
    }
    let file = try files.createFile(workPath(.manifest))
    defer { file.close() }
    try files.write(try CheckedDocumentCodec.encode(manifest), to: file)
    try files.synchronize(file)
    try lease.confirm()
    try repository.requireInPlace()
    _ = try repository.parent(of: manifest, at: place)
    try files.rename(workPath(.manifest), to: place.path(.manifest), isReplacing: false)
    try files.synchronizeFolder(place.folder)
    try repository.requireInPlace()
  }

  private func makeDurable(_ path: String) throws(SystemError) {
    let file = try files.openFile(path, isReadOnly: false)
    defer { file.close() }
    try files.synchronize(file)
  }

  /// Removes everything that this job made, what claims to be complete first. Returns what couldn't be removed.
  func discard() -> [String] {
    var left: [String] = []
    for part in Self.parts {
      for path in [place.path(part), workPath(part)] {
        do throws(SystemError) {
          let wasThere = try files.removeIfPresent(path)
          if part == .manifest, wasThere { try files.synchronizeFolder(place.folder) }
        } catch {
          left.append("\(path): \(error)")
        }
      }
    }
    removeFolders()
    return left
  }

  // Folders that aren't empty belong to others, or hold what is told above; empty ones do no harm.
  private func removeFolders() {
    try? files.removeFolder(place.folder)
    let folder = RepositoryPath.image(place.image)
    let document = RepositoryPath.imageDocument(place.image)
    _ = try? files.removeIfPresent(PartFileName(target: document, writer: repository.writer, job: job).text)
    guard let rest = try? files.entries(of: folder, limit: 2), rest.allSatisfy({ $0.name == "image.json" }) else {
      return
    }
    _ = try? files.removeIfPresent(document)
    try? files.removeFolder(folder)
  }
}
