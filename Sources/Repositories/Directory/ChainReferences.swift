import BlockCore
import Buffers
import EventLoops
import Failures
import Glibc
import Model
import Qcow2

/// Which file of a chain's folder builds on which: asked before anything is taken away.
struct ChainReferences: Sendable {
  /// File name → the file of the same folder that names it, as a backing file or as its manifest's parent.
  private var users: [String: String] = [:]

  /// Reads the manifests and the headers of all data files of the folder.
  /// - Throws: where a file can't be read. One whose contents make no sense names nothing.
  nonisolated(nonsending)
    static func read(
      _ folder: String, of repository: RepositoryFolder, on loop: EventLoop
    ) async throws -> ChainReferences
  {
    let files = repository.files
    let names = try await loop.blocking(about: folder) {
      try files.entries(of: folder, limit: RepositoryFolder.maximumEntryCount)
        .filter { $0.kind == .file }.map(\.name)
    }
    var references = ChainReferences()
    for name in names {
      guard let file = BackupFileName(name) else { continue }
      switch file.part {
      case .data:
        guard let backing = try await backing(of: "\(folder)/\(name)", files, loop) else { continue }
        references.users[FilePath.name(of: backing)] = name
      case .manifest:
        let parent: BackupID? = try await loop.blocking(about: name) {
          let bytes = try files.contents(of: "\(folder)/\(name)", limit: CheckedDocumentCodec.maximumByteCount)
          return try? CheckedDocumentCodec.decode(Manifest.self, from: bytes).parent?.backup
        }
        guard let parent else { continue }
        for name in names where BackupFileName(name)?.backup == parent { references.users[name] = file.text }
      case .hashes, .tombstone: continue
      }
    }
    return references
  }

  /// The file that builds on `name`, if any.
  func user(of name: String) -> String? { users[name] }

  nonisolated(nonsending)
    private static func backing(
      of path: String, _ files: any FolderFiles, _ loop: EventLoop
    ) async throws -> String?
  {
    try await telling(about: path) {
      let file = try await loop.blocking { () throws(SystemError) in try files.openFile(path, isReadOnly: true) }
      let device = try await files.device(over: file, isReadOnly: true, direct: false, on: loop)
      return try await closing([device]) {
        do throws(Qcow2Error) {
          return try await Qcow2Description.read(from: device, pool: BufferPool()).backing?.name
        } catch {
          if case .device(let cause) = error, cause.isStorageFailure { throw cause }
          return nil
        }
      }
    }
  }
}
