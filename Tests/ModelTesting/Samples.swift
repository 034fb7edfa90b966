import Foundation
import Model

// Entities for tests, valid in every field; give what the test is about.

extension ResourceName: ExpressibleByStringLiteral {
  package init(stringLiteral value: String) {
    guard let name = ResourceName(value) else { preconditionFailure("'\(value)': \(Self.rule)") }
    self = name
  }
}

extension Image {
  package static func sample(
    _ name: ResourceName = "vm1", id: ImageID = ImageID(), path: String? = nil, format: DiskFormat = .raw,
    attachment: Attachment? = nil, labels: [String: String] = [:], managedBy: ManagedBy = .api
  ) -> Image {
    Image(
      id: id, name: name, source: .file(path: path ?? "/images/\(name)"), format: format, virtualSize: 1 << 20,
      state: attachment == nil ? .detached : .attached, attachment: attachment, labels: labels, managedBy: managedBy,
      createdAt: ManualClock.epoch)
  }
}

extension Repository {
  package static func sample(
    _ name: ResourceName = "local", id: RepositoryID = RepositoryID(), path: String? = nil,
    managedBy: ManagedBy = .api
  ) -> Repository {
    Repository(
      id: id, name: name, path: path ?? "/backup/\(name)", managedBy: managedBy, createdAt: ManualClock.epoch)
  }
}

extension Chain {
  package static func sample(
    of image: Image, in repository: Repository, id: ChainID = ChainID()
  ) -> Chain {
    Chain(id: id, image: image.id, imageName: image.name, repository: repository.id, createdAt: ManualClock.epoch)
  }
}

extension Backup {
  package static func sample(
    in chain: Chain, id: BackupID = BackupID(), sequence: Int = 0, parent: BackupID? = nil,
    state: State = .complete, job: JobID? = nil, group: ULID? = nil, groupImages: [ImageID] = []
  ) -> Backup {
    Backup(
      id: id, image: chain.image, repository: chain.repository, chain: chain.id, sequence: sequence,
      group: group ?? id.ulid, groupImages: groupImages, kind: .full, requestedKind: .full,
      reason: "a full backup was asked for", tracker: .standard(of: chain.repository), parent: parent, state: state,
      compression: .zstd, pointInTime: ManualClock.epoch, createdAt: ManualClock.epoch,
      finishedAt: state == .running ? nil : ManualClock.epoch, virtualSize: 1 << 20, dirtyBytes: 1 << 16,
      storedSize: 1 << 15, merkleRoot: state == .complete ? String(repeating: "5a", count: 32) : nil, job: job)
  }
}

extension Export {
  /// Of a backup that is none, unless one is given.
  package static func sample(
    _ name: ResourceName = "disk0", id: ExportID = ExportID(), of source: ExportSource = .backup(BackupID()),
    isReadOnly: Bool = true, listen: ExportAddress = .unix(path: "/run/cobweb/nbd.sock"), tls: ExportTLS? = nil,
    state: State = .active
  ) -> Export {
    Export(
      id: id, name: name, source: source, isReadOnly: isReadOnly, listen: listen, tls: tls, state: state,
      failure: state == .unavailable ? "its image couldn't be opened" : nil, createdAt: ManualClock.epoch)
  }
}

extension Fleecing {
  /// Of an image that is none, unless some are given.
  package static func sample(
    id: FleecingID = FleecingID(), of images: [Image] = [.sample()], state: State = .active,
    listen: ExportAddress = .unix(path: "/run/cobweb/fleece.sock")
  ) -> Fleecing {
    Fleecing(
      id: id,
      images: images.map { Part(image: $0.id, imageName: $0.name, virtualSize: $0.virtualSize) }, listen: listen,
      state: state, pointInTime: state == .starting ? nil : ManualClock.epoch,
      expiresAt: state == .starting ? nil : ManualClock.epoch + 3600,
      endedAt: state.isEnded ? ManualClock.epoch + 60 : nil,
      outcome: [.finished, .expired].contains(state) ? .failure : nil,
      error: state == .broken ? ProblemDetails(DomainError(.pointInTimeLost, "there was no room left")) : nil,
      createdAt: ManualClock.epoch)
  }
}

extension Job {
  package static func sample(
    _ request: JobRequest = .rescan(repository: RepositoryID()), id: JobID = JobID(), state: JobState = .queued
  ) -> Job {
    Job(id: id, request: request, state: state, createdAt: ManualClock.epoch)
  }
}
