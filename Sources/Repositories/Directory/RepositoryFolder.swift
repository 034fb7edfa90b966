import EventLoops
import Foundation
import Glibc
import Model

/// The folder of a repository of kind `directory`: it is held open, and holds what it should. All calls block.
package struct RepositoryFolder: Sendable {
  let location: RepositoryLocation
  let files: any FolderFiles
  /// This server: part of the names of work files.
  let writer: ULID
  /// What was put right in opening it, as a sentence; nil if nothing was.
  let repair: String?

  /// The most names that one folder of a repository may hold.
  static let maximumEntryCount = 100_000

  /// Opens what must be the repository that `location` names. Blocks.
  static func open(
    _ location: RepositoryLocation, in files: any FolderFiles, writer: ULID
  ) throws -> RepositoryFolder {
    let loss = LostDocument(files: files, path: location.path, writer: writer)
    var repair: String?
    let id: RepositoryID
    if let document = try document(in: files, at: location.path) {
      id = document.id
    } else if let found = try loss.idInManifests() {
      if found == location.id { repair = try loss.restoreDocument(found) }
      id = found
    } else {
      throw DomainError(
        .repositoryUnavailable, "\(location.path) holds no \(RepositoryPath.document)",
        remedy: "mount the repository's storage, or give the path of its folder")
    }
    guard id == location.id else {
      throw DomainError(
        .repositoryMismatch, "\(location.path) holds the repository \(id), not \(location.id)",
        remedy: "mount the right storage, or register this folder as a repository of its own")
    }
    return RepositoryFolder(location: location, files: files, writer: writer, repair: repair)
  }

  /// Makes the folder a repository with `id`, or tells the id of the one that it is, with what was put right
  /// in it. Blocks.
  static func establish(
    in files: any FolderFiles, at path: String, id: RepositoryID, writer: ULID, now: Date
  ) throws -> EstablishedRepository {
    if let document = try document(in: files, at: path) {
      try refuseHolding(files, path)
      return EstablishedRepository(id: document.id, repair: nil)
    }
    let loss = LostDocument(files: files, path: path, writer: writer)
    if let found = try loss.idInManifests() {
      return EstablishedRepository(id: found, repair: try loss.restoreDocument(found))
    }
    try checkEmpty(files, path)
    for folder in RepositoryPath.folders where folder != RepositoryPath.trash {
      _ = try files.ensureFolder(folder)
    }
    let document = RepositoryDescription(id: id, createdAt: Timestamp.rounded(now))
    do throws(SystemError) {
      try publish(document, in: files, at: path, writer: writer, isReplacing: false)
    } catch {
      // Another server was first.
      if error.code == EEXIST, let document = try Self.document(in: files, at: path) {
        return EstablishedRepository(id: document.id, repair: nil)
      }
      throw error
    }
    return EstablishedRepository(id: id, repair: nil)
  }

  static func publish(
    _ document: RepositoryDescription, in files: any FolderFiles, at path: String, writer: ULID, isReplacing: Bool
  ) throws(SystemError) {
    let bytes: [UInt8]
    do { bytes = try CheckedDocumentCodec.encode(document) } catch { throw SystemError(EIO, "\(path): \(error)") }
    let way = PartFileName(target: RepositoryPath.document, writer: writer, job: JobID()).text
    try files.publish(bytes, as: RepositoryPath.document, by: way, isReplacing: isReplacing)
  }

  /// Nil if there is none, or only the empty file or the zeroes that a power cut leaves on some file systems.
  private static func document(in files: any FolderFiles, at path: String) throws -> RepositoryDescription? {
    do {
      let bytes = try files.contents(of: RepositoryPath.document, limit: CheckedDocumentCodec.maximumByteCount)
      if bytes.allSatisfy({ $0 == 0 }) { return nil }
      return try CheckedDocumentCodec.decode(RepositoryDescription.self, from: bytes)
    } catch let error as SystemError where error.code == ENOENT {
      return nil
    } catch let error as DocumentDamage {
      throw DomainError(
        .repositoryMismatch, "\(path)/\(RepositoryPath.document): \(error.text)",
        remedy: "put the file back as it was, or use another folder")
    }
  }

  /// What a cut while it was being made leaves, and what a file system of its own begins with, are no content.
  private static func checkEmpty(_ files: any FolderFiles, _ path: String) throws {
    let own = RepositoryPath.folders + ["lost+found"]
    for entry in try files.entries(of: ".", limit: maximumEntryCount) {
      if entry.kind == .folder, own.contains(entry.name) { continue }
      if let part = PartFileName(entry.name), part.target == RepositoryPath.document { continue }
      if entry.name == RepositoryPath.document {
        throw DomainError(
          .repositoryMismatch, "\(path)/\(entry.name) is empty, and no backup tells whose it is",
          remedy: "put the file back as it was, or remove it if the folder holds nothing else")
      }
      throw DomainError(
        .repositoryMismatch, "\(path) isn't a repository and isn't empty: it holds '\(entry.name)'",
        remedy: "use an empty folder, or one that doesn't exist yet")
    }
    for folder in own.dropLast() where try files.status(of: folder) != nil {
      guard try files.entries(of: folder, limit: 1).isEmpty else {
        throw DomainError(
          .repositoryMismatch, "\(path) has lost its \(RepositoryPath.document): '\(folder)' isn't empty",
          remedy: "put \(RepositoryPath.document) back as it was")
      }
    }
  }

  // MARK: Nesting

  /// Refuses a folder that lies in a repository: what is written in there isn't that repository's. Blocks.
  /// - Parameters:
  ///   - outer: the files of an allowed folder, and `relative` the repository's path beneath it.
  package static func refuseWithin(_ outer: any FolderFiles, _ relative: String, _ path: String) throws {
    var above = relative
    while above != "." {
      above = FilePath.folder(of: above)
      let document = above == "." ? RepositoryPath.document : "\(above)/\(RepositoryPath.document)"
      do throws(SystemError) {
        guard try outer.status(of: document) != nil else { continue }
      } catch {
        // Nothing is known of a folder that can't be read.
        guard [EACCES, EPERM].contains(error.code) else { throw error }
        continue
      }
      throw DomainError(
        .repositoryMismatch, "\(path) lies within another repository, the one whose \(document) is there",
        remedy: "choose a folder outside of it")
    }
  }

  private static func refuseHolding(_ files: any FolderFiles, _ path: String) throws {
    for entry in try files.entries(of: ".", limit: maximumEntryCount)
    where entry.kind == .folder && !RepositoryPath.folders.contains(entry.name) {
      guard (try? files.status(of: "\(entry.name)/\(RepositoryPath.document)")) ?? nil != nil else { continue }
      throw DomainError(
        .repositoryMismatch, "\(path) holds another repository, \(entry.name)", remedy: "move one out of the other")
    }
  }

  /// Refuses a repository whose path doesn't lead to the open folder any more: what is written there won't be found.
  /// Blocks.
  func requireInPlace() throws { try files.requireInPlace(at: location.path) }

  /// Blocks.
  func access() throws(SystemError) -> RepositoryAccess { try files.isWritable() ? .readWrite : .readOnly }

  // MARK: Documents

  func manifestBytes(_ backup: StoredBackupLocation) throws(SystemError) -> [UInt8] {
    try files.contents(of: backup.path(.manifest), limit: CheckedDocumentCodec.maximumByteCount)
  }

  /// The manifest of a backup that is complete, as it should be at that place. Blocks.
  func manifest(_ backup: StoredBackupLocation) throws -> Manifest {
    let path = backup.path(.manifest)
    do {
      let manifest = try CheckedDocumentCodec.decode(Manifest.self, from: try manifestBytes(backup))
      guard manifest.belongs(at: backup) else { throw DocumentDamage("it belongs to another backup") }
      _ = try manifest.root()
      return manifest
    } catch let error as DocumentDamage {
      throw DomainError(
        .backupCorrupt, "the manifest \(path) can't be used: \(error.text)", remedy: "use another backup")
    } catch let error as SystemError where error.code == EMSGSIZE || error.isOfWhatHasTheName {
      throw DomainError(
        .backupCorrupt, "the manifest \(path) can't be used: \(error.detail ?? "it is too long")",
        remedy: "use another backup")
    } catch let error as SystemError where error.code == ENOENT {
      let isDeleted = try files.status(of: backup.path(.tombstone)) != nil
      throw DomainError(
        .backupNotComplete,
        isDeleted
          ? "the backup \(backup.backup) was deleted" : "the backup \(backup.backup) has no manifest at \(path)",
        remedy: "use another backup")
    }
  }

  /// Writes image.json if it doesn't say the same already. The image's folder exists. Blocks.
  func record(_ image: ImageRecord, job: JobID) throws {
    let path = RepositoryPath.imageDocument(image.id)
    let bytes = try CheckedDocumentCodec.encode(ImageDescription(image))
    do throws(SystemError) {
      if try files.contents(of: path, limit: CheckedDocumentCodec.maximumByteCount) == bytes { return }
    } catch {
      // One that is too long, or a link that leads out, is damaged, and replaced.
      guard error.isOfOneFile else { throw error }
    }
    let way = PartFileName(target: path, writer: writer, job: job).text
    try files.publish(bytes, as: path, by: way, isReplacing: true)
  }

  /// Bytes that the backup's files take; what has one's name and isn't a file takes none.
  func storedByteCount(_ backup: StoredBackupLocation) throws(SystemError) -> UInt64 {
    var count: UInt64 = 0
    for part in [BackupFileName.Part.data, .hashes, .manifest] {
      do throws(SystemError) {
        count += try files.status(of: backup.path(part))?.allocatedByteCount ?? 0
      } catch {
        guard error.isOfOneFile else { throw error }
      }
    }
    return count
  }
}

extension StoredBackupLocation {
  package var folder: String { RepositoryPath.chain(chain, of: image) }

  package func name(_ part: BackupFileName.Part) -> String {
    BackupFileName(sequence: sequence, backup: backup, part: part).text
  }

  /// Within the repository.
  package func path(_ part: BackupFileName.Part) -> String { "\(folder)/\(name(part))" }

  /// What a person knows the file by.
  package func fullPath(_ part: BackupFileName.Part) -> String { "\(repository.path)/\(path(part))" }
}

extension Manifest {
  func belongs(at place: StoredBackupLocation) -> Bool {
    repository == place.repository.id && image == place.image && chain == place.chain && sequence == place.sequence
      && backup == place.backup
  }
}
