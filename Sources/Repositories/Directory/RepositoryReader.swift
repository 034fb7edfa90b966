import EventLoops
import Foundation
import Model

/// Reads everything that a repository's files tell, and changes nothing. Blocks.
struct RepositoryReader {
  private let repository: RepositoryFolder
  private var scan = RepositoryScan(images: [], chains: [], backups: [], findings: [])
  private var unreportedFindingCount = 0

  /// More findings than this are only counted.
  private static let maximumFindingCount = 1000

  private init(_ repository: RepositoryFolder) { self.repository = repository }

  /// - Throws: only for what keeps the whole from being read; a bad file is a finding.
  static func scan(_ repository: RepositoryFolder) throws -> RepositoryScan {
    var reader = RepositoryReader(repository)
    try reader.readImages()
    try reader.readTrash()
    if reader.unreportedFindingCount > 0 {
      reader.scan.findings.append("and \(reader.unreportedFindingCount) more")
    }
    return reader.scan
  }

  private var files: any FolderFiles { repository.files }

  private mutating func find(_ text: String) {
    if scan.findings.count < Self.maximumFindingCount {
      scan.findings.append(text)
    } else {
      unreportedFindingCount += 1
    }
  }

  private func entries(_ path: String) throws -> [FolderEntry] {
    try files.entries(of: path, limit: RepositoryFolder.maximumEntryCount)
  }

  private mutating func readImages() throws {
    guard try files.status(of: RepositoryPath.images) != nil else { return }
    for entry in try entries(RepositoryPath.images) {
      guard entry.kind == .folder, let image = ImageID(entry.name), image.description == entry.name else {
        find("\(RepositoryPath.images)/\(entry.name) doesn't belong here")
        continue
      }
      try readImage(image)
    }
  }

  /// What lies in the trash is no backup, and no stranger.
  private mutating func readTrash() throws {
    guard try files.status(of: RepositoryPath.trash) != nil else { return }
    for entry in try entries(RepositoryPath.trash) where entry.kind != .folder || TrashName(entry.name) == nil {
      find("\(RepositoryPath.trash)/\(entry.name) doesn't belong here")
    }
  }

  private mutating func readImage(_ image: ImageID) throws {
    let entries = try entries(RepositoryPath.image(image))
    // It was made, and the server was killed before it wrote anything in there.
    guard !entries.isEmpty else { return }
    var name: ResourceName?
    do {
      let path = RepositoryPath.imageDocument(image)
      let bytes = try files.contents(of: path, limit: CheckedDocumentCodec.maximumByteCount)
      let document = try CheckedDocumentCodec.decode(ImageDescription.self, from: bytes)
      guard document.id == image else { throw DocumentDamage("it belongs to image \(document.id)") }
      scan.images.append(document.record)
      name = document.name
    } catch let error as DocumentDamage {
      find("\(RepositoryPath.imageDocument(image)): \(error.text)")
    } catch let error as SystemError where error.isOfOneFile {
      find("\(RepositoryPath.imageDocument(image)): \(error)")
    }
    for entry in entries where entry.name != "image.json" {
      let path = "\(RepositoryPath.image(image))/\(entry.name)"
      if entry.kind == .folder, let chain = ChainID(entry.name), chain.description == entry.name {
        try readChain(chain, of: image, name)
      } else {
        find(
          PartFileName(entry.name).map { "\(path) is a work file of job \($0.job)" } ?? "\(path) doesn't belong here")
      }
    }
  }

  private mutating func readChain(_ chain: ChainID, of image: ImageID, _ name: ResourceName?) throws {
    let folder = RepositoryPath.chain(chain, of: image)
    var parts: [StoredBackupLocation: Set<BackupFileName.Part>] = [:]
    for entry in try entries(folder) {
      if entry.kind == .file, let file = BackupFileName(entry.name) {
        let place = StoredBackupLocation(
          repository: repository.location, image: image, chain: chain, sequence: file.sequence, backup: file.backup)
        parts[place, default: []].insert(file.part)
      } else if let part = PartFileName(entry.name) {
        find("\(folder)/\(entry.name) is a work file of job \(part.job)")
      } else {
        find("\(folder)/\(entry.name) doesn't belong here")
      }
    }
    var backups: [Backup] = []
    var oldName: ResourceName?
    for (place, parts) in parts.sorted(by: { ($0.key.sequence, $0.key.backup) < ($1.key.sequence, $1.key.backup) }) {
      guard let (manifest, backup) = try readBackup(place, parts) else { continue }
      backups.append(backup)
      oldName = manifest.imageName
    }
    guard !backups.isEmpty, let name = name ?? oldName else { return }
    scan.chains.append(
      Chain(
        id: chain, image: image, imageName: name, repository: repository.location.id, createdAt: chain.ulid.date))
    scan.backups += backups
  }

  private mutating func readBackup(
    _ place: StoredBackupLocation, _ parts: Set<BackupFileName.Part>
  ) throws -> (Manifest, Backup)? {
    guard parts.contains(.manifest) else {
      for part in [BackupFileName.Part.data, .hashes] where parts.contains(part) {
        find(
          parts.contains(.tombstone)
            ? "\(place.path(part)) belongs to a backup whose deletion was cut short"
            : "\(place.path(part)) has no manifest: the backup isn't complete")
      }
      return nil
    }
    do {
      let manifest = try repository.manifest(place)
      var backup = manifest.entity(storedSize: try repository.storedByteCount(place))
      let missing = [BackupFileName.Part.data, .hashes].filter { !parts.contains($0) }.map(place.path)
      if !missing.isEmpty {
        backup.state = .corrupt
        backup.failure = "missing: \(missing.joined(separator: ", "))"
        find("\(place.path(.manifest)) stands for files that are missing: \(missing.joined(separator: ", "))")
      }
      return (manifest, backup)
    } catch let error as DomainError {
      find(error.detail)
    } catch let error as SystemError where error.isOfOneFile {
      find("\(place.path(.manifest)): \(error)")
    }
    scan.unreadable.insert(place.backup)
    return nil
  }
}
