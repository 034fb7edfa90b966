import EventLoops
import Failures
import Glibc
import Model
import Repositories

/// Where a backup is restored to as a new file: a folder that is open, and a name in it that isn't taken.
struct RestorePlace: Sendable {
  /// Without links.
  let folderPath: String
  let name: String
  private let status: FileStatus

  /// - Parameter folder: beneath the image folders, resolved.
  init(_ folder: ResolvedPath, name: String) {
    folderPath = folder.real
    self.name = name
    status = folder.status
  }

  /// Without links.
  var path: String { folderPath == "/" ? "/\(name)" : "\(folderPath)/\(name)" }

  /// Refuses a folder that its path doesn't lead to any more: what is restored there won't be found. Blocks.
  func requireInPlace() throws(DomainError) {
    guard status.isFound(at: folderPath) else {
      throw DomainError(
        .sourceNotFound, "\(folderPath) was moved, replaced or mounted over while \(name) was restored to it",
        remedy: "restore again when the folder stays")
    }
  }

  static func isTaken(_ path: String) -> DomainError {
    DomainError(
      .targetExists, "there is something at \(path) already",
      remedy: "choose another path, or register it as an image and restore over that")
  }
}

extension AllowedFolders {
  /// The place for a new file at `path`, with its folder open. Blocks.
  /// - Throws: `targetExists` if anything has the name, if only a link that leads nowhere; as ``resolveName(_:)``.
  func openTarget(_ path: String) throws -> (place: RestorePlace, folder: Folder) {
    let (place, name) = try resolveName(path)
    let folder = try place.folder.openFolder(place.relative, followsLinks: false)
    guard try folder.descriptor.status().isSameFile(as: place.status) else {
      throw DomainError(
        .sourceNotFound, "the folder of \(path) was replaced while it was opened", remedy: "try again when it rests")
    }
    if try folder.descriptor.hasEntry(name) { throw RestorePlace.isTaken(path) }
    return (RestorePlace(place, name: name), folder)
  }
}

extension LocalEngine {
  package func resolveTarget(_ path: String) async throws -> String {
    try await onLoop(in: .folder(of: path)) { [self] loop in
      try await loop.blocking(about: path) { [imageFolders] in try imageFolders.openTarget(path).place.path }
    }
  }
}
