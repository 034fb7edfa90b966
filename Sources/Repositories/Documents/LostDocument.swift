import EventLoops
import Foundation
import Glibc
import Model

/// What to do about a `repository.json` that is gone or empty: each manifest names the repository's id as well, so the
/// file is written anew from them.
///
/// - Only manifests that are whole, and lie where they say, count; all of them must name one repository.
/// - A folder without any such manifest is no repository: an empty mount point must not become one.
/// - Where the storage can only be read, the manifests stand for the file.
struct LostDocument {
  let files: any FolderFiles
  /// What the person knows the folder by.
  let path: String
  let writer: ULID

  /// Manifests that are read before the rest is taken to be like them.
  private static let maximumManifestCount = 1000

  /// Nil if no manifest names one.
  /// - Throws: `repositoryMismatch` if they don't agree.
  func idInManifests() throws -> RepositoryID? {
    guard try files.status(of: RepositoryPath.images) != nil else { return nil }
    var found: RepositoryID?
    var count = 0
    for folder in try chainFolders() {
      for entry in try entries(folder) {
        guard count < Self.maximumManifestCount else { return found }
        guard entry.kind == .file, BackupFileName(entry.name)?.part == .manifest,
          let id = try id(inManifest: "\(folder)/\(entry.name)")
        else { continue }
        count += 1
        if let found, found != id {
          throw DomainError(
            .repositoryMismatch,
            "\(path) has lost its \(RepositoryPath.document), and its backups name more than one repository",
            remedy: "put \(RepositoryPath.document) back as it was, or move the other repository's backups out")
        }
        found = id
      }
    }
    return found
  }

  /// Writes the file. Returns what was done, as a sentence.
  func restoreDocument(_ id: RepositoryID) throws -> String {
    // The time of its making is gone with the file; the id holds it to the millisecond.
    let document = RepositoryDescription(id: id, createdAt: Timestamp.rounded(id.ulid.date))
    do throws(SystemError) {
      // What an empty file holds isn't lost by replacing it.
      try RepositoryFolder.publish(document, in: files, at: path, writer: writer, isReplacing: true)
    } catch {
      guard error.code == EROFS || error.code == EACCES || error.code == EPERM else { throw error }
      return
        "\(RepositoryPath.document) is lost and can't be written anew (\(error)): its id \(id) is that of its manifests"
    }
    return "\(RepositoryPath.document) was lost: it is written anew, with the id \(id) that its manifests name"
  }

  private func entries(_ path: String) throws(SystemError) -> [FolderEntry] {
    try files.entries(of: path, limit: RepositoryFolder.maximumEntryCount)
  }

  private func chainFolders() throws(SystemError) -> [String] {
    var folders: [String] = []
    for image in try entries(RepositoryPath.images) where image.kind == .folder && ImageID(image.name) != nil {
      let folder = "\(RepositoryPath.images)/\(image.name)"
      for chain in try entries(folder) where chain.kind == .folder && ChainID(chain.name) != nil {
        folders.append("\(folder)/\(chain.name)")
      }
    }
    return folders
  }

  /// Nil for a manifest that is damaged or lies in another place than it says.
  private func id(inManifest path: String) throws(SystemError) -> RepositoryID? {
    let bytes: [UInt8]
    do throws(SystemError) {
      bytes = try files.contents(of: path, limit: CheckedDocumentCodec.maximumByteCount)
    } catch {
      if error.isOfOneFile { return nil }
      throw error
    }
    guard let manifest = try? CheckedDocumentCodec.decode(Manifest.self, from: bytes) else { return nil }
    let name = BackupFileName(sequence: manifest.sequence, backup: manifest.backup, part: .manifest).text
    guard path == "\(RepositoryPath.chain(manifest.chain, of: manifest.image))/\(name)" else { return nil }
    return manifest.repository
  }
}
