import EventLoops
import Failures
import Glibc
import Model
import NBD

/// The unix sockets of exports: where they may be, and who may connect.
struct ExportSockets: Sendable {
  private let folders: AllowedFolders
  /// The sockets' mode and group.
  let access: SocketFileAccess

  private static let socketMode: UInt32 = 0o660
  /// Of the folder, where it has to be made: the sockets in it decide which users get in.
  private static let folderMode: mode_t = 0o755

  /// Makes the folder if it isn't there, and opens it; blocks.
  /// - Throws: where that fails; `invalidField` for a group that this host doesn't have.
  init(_ configuration: ExportConfiguration) throws(DomainError) {
    access = SocketFileAccess(mode: Self.socketMode, group: try Self.groupNumber(configuration.socketGroup))
    do throws(SystemError) {
      let paths = configuration.socketFolder.map { [$0] } ?? []
      for path in paths {
        guard mkdir(path, Self.folderMode) == 0 || errno == EEXIST else { throw SystemError(errno, path) }
      }
      folders = try AllowedFolders(paths, purpose: "socket folders")
    } catch {
      throw DomainError(error, of: configuration.socketFolder ?? "the socket folder")
    }
  }

  private static func groupNumber(_ name: String?) throws(DomainError) -> UInt32? {
    guard let name else { return nil }
    var entry = group()
    var found: UnsafeMutablePointer<group>?
    var memory = [CChar](repeating: 0, count: 65536)
    guard getgrnam_r(name, &entry, &memory, memory.count, &found) == 0, found != nil else {
      throw DomainError(
        .invalidField, "there is no group '\(name)' on this host", remedy: "correct socketGroup in the configuration")
    }
    return entry.gr_gid
  }

  /// The path to listen at for a socket at `path`: one without links. Blocks.
  /// - Throws: `pathOutsideFolders`; `addressUnavailable` where something else has the name, or its folder is missing.
  func prepare(_ path: String) throws(DomainError) -> String {
    if let there = try? folders.resolve(path), there.status.kind == .folder {
      throw DomainError(.addressUnavailable, "\(path) is a folder", remedy: "add a name")
    }
    do throws(DomainError) {
      let (place, name) = try folders.resolveName(path)
      do throws(SystemError) {
        let folder = try place.folder.openFolder(place.relative, followsLinks: false)
        var status = stat()
        // What is there and is no socket would be taken for an abandoned one.
        if fstatat(folder.descriptor.rawValue, name, &status, AT_SYMLINK_NOFOLLOW) == 0,
          status.st_mode & S_IFMT != S_IFSOCK
        {
          throw SystemError(EEXIST)
        }
        return "\(try folder.descriptor.currentPath())/\(name)"
      } catch {
        guard error.code == EEXIST else { throw DomainError(error, of: path) }
        throw DomainError(
          .addressUnavailable, "\(path) exists and is no socket", remedy: "remove it, or choose another path")
      }
    } catch {
      guard [.sourceNotFound, .permissionDenied].contains(error.code) else { throw error }
      throw DomainError(
        .addressUnavailable, "the folder of \(path) can't be used: \(error.detail)",
        remedy: "make the folder, or choose another path")
    }
  }
}
