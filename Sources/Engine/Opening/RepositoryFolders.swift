import EventLoops
import Failures
import Model
import Repositories

/// The folders that may hold repositories of kind `directory`.
struct RepositoryFolders: Sendable {
  private let allowed: AllowedFolders
  private let openFiles: @Sendable (Folder) -> any FolderFiles

  /// - Throws: for an allowed folder that isn't there. Blocks.
  init(_ configuration: EngineConfiguration) throws(SystemError) {
    allowed = try AllowedFolders(configuration.repositoryFolders, purpose: "repository folders")
    openFiles = configuration.openFiles
  }

  /// The folder at `path`; made, with those above it up to the allowed one, if `isMaking`. Blocks.
  func open(_ path: String, isMaking: Bool) throws -> any FolderFiles {
    do {
      let place = try isMaking ? allowed.resolveToMake(path) : allowed.resolve(path)
      let outer = openFiles(place.folder)
      if isMaking { try RepositoryFolder.refuseWithin(outer, place.relative, path) }
      var made = place.missing.reduce(place.relative) { path, _ in FilePath.folder(of: path) }
      for name in place.missing {
        let above = made
        made = above == "." ? name : "\(above)/\(name)"
        if try outer.ensureFolder(made) { try outer.synchronizeFolder(above) }
      }
      let folder = try place.folder.openFolder(place.relative, followsLinks: false)
      return openFiles(folder)
    } catch {
      let failure = DomainError(any: error, of: path)
      guard failure.code == .sourceNotFound || failure.code == .sourceNotAFile else { throw failure }
      throw DomainError(
        .repositoryUnavailable, "the repository's folder \(path) can't be opened: \(failure.detail)",
        remedy: "mount the repository's storage, or check the path")
    }
  }
}
