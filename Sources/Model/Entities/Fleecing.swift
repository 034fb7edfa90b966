import Bytes
import Foundation

/// Views of one or several images at one moment, for programs of others: one NBD export for each image.
///
/// The exports end with the fleecing, and are never served again: their names carry its id, so that a client that comes
/// back gets an error and no other moment. It is kept in the catalog for a while after its end, with how it ended.
package struct Fleecing: Hashable, Sendable, Codable {
  /// The life of a fleecing:
  ///
  ///     starting ──► active ──► finishing ──► finished
  ///         │          ├───────────────────► finished, expired
  ///         └──────────┴──────────┴────────► broken
  package enum State: String, Sendable, Codable, CaseIterable {
    /// Its job hasn't taken the moment yet.
    case starting
    /// Its exports are served.
    case active
    /// A job ends it.
    case finishing
    case finished
    /// Nobody renewed or finished it in time.
    case expired
    /// The moment is lost, or was never had: see ``Fleecing/error``.
    case broken

    package var isEnded: Bool { Self.ended.contains(self) }

    package static let ended: Set<State> = [.finished, .expired, .broken]
    package static let live = Set(allCases).subtracting(ended)
  }

  /// What it means to the view that a reader is done with a part of it.
  package enum Release: String, Sendable, Codable, CaseIterable {
    /// Parts are released over the API. The exports are read-only.
    case none
    /// Clients may release by TRIM too. The exports aren't flagged read-only, and refuse writes.
    case trim
  }

  /// What the reader says of what it has read.
  package enum Outcome: String, Sendable, Codable, CaseIterable {
    case success
    /// Also what an expiry and a deletion mean.
    case failure
  }

  /// Which parts of the disks clients may read.
  package enum Access: String, Sendable, Codable, CaseIterable {
    case all
    /// What is dirty since the base. Other reads fail with EPERM, and nothing of the rest is kept.
    case dirty
  }

  /// The moment from which on the views show what changed.
  package enum Base: Hashable, Sendable, Codable {
    /// Since that bitmap was made or cleared.
    case bitmap(BitmapName)
    case backup(BackupID)
    /// Of a fleecing, or of a backup.
    case checkpoint(ULID)

    /// What clients find as `qemu:dirty-bitmap:` and this.
    package var contextName: String {
      switch self {
      case .bitmap(let name): name.text ?? name.percentEncoded
      case .backup(let id): id.description
      case .checkpoint(let id): id.description
      }
    }
  }

  /// Whose bitmap a fleecing advances that names no other.
  package static let standardTracker = TrackerName("external")!

  /// One image's part.
  package struct Part: Hashable, Sendable, Codable {
    package var image: ImageID
    /// As it was when the fleecing was asked for.
    package var imageName: ResourceName
    /// Bytes of the disk.
    package var virtualSize: UInt64
    /// What is dirty since the base; nil without one.
    package var dirtyBytes: UInt64?
    /// The bitmap that counts from the moment; nil where the image can have none.
    package var tracked: TrackedPoint?

    package init(
      image: ImageID, imageName: ResourceName, virtualSize: UInt64, dirtyBytes: UInt64? = nil,
      tracked: TrackedPoint? = nil
    ) {
      self.image = image
      self.imageName = imageName
      self.virtualSize = virtualSize
      self.dirtyBytes = dirtyBytes
      self.tracked = tracked
    }
  }

  package let id: FleecingID
  /// In the order of the request.
  package var images: [Part]
  package var listen: ExportAddress
  package var tls: ExportTLS?
  package var release: Release
  package var access: Access
  /// Nil: they show no such context.
  package var since: Base?
  /// Whose bitmap a success advances. No backup's.
  package var tracker: TrackerName
  /// What a success sets; nil where no image can have one.
  package var checkpoint: ULID?
  /// What the checkpoint is called by its maker.
  package var label: String?
  package var state: State
  /// The moment that the views show; nil until it was taken.
  package var pointInTime: Date?
  /// When it ends unless it is renewed; nil until the moment was taken.
  package var expiresAt: Date?
  package var endedAt: Date?
  /// How it ended, unless it is broken.
  package var outcome: Outcome?
  /// Why it is broken.
  package var error: ProblemDetails?
  package var createdAt: Date
  package var revision: Int

  package init(
    id: FleecingID = FleecingID(), images: [Part], listen: ExportAddress, tls: ExportTLS? = nil,
    release: Release = .none, access: Access = .all, since: Base? = nil, tracker: TrackerName = Self.standardTracker,
    checkpoint: ULID? = nil, label: String? = nil, state: State = .starting, pointInTime: Date? = nil,
    expiresAt: Date? = nil,
    endedAt: Date? = nil, outcome: Outcome? = nil, error: ProblemDetails? = nil, createdAt: Date, revision: Int = 1
  ) {
    self.id = id
    self.images = images
    self.listen = listen
    self.tls = tls
    self.release = release
    self.access = access
    self.since = since
    self.tracker = tracker
    self.checkpoint = checkpoint
    self.label = label
    self.state = state
    self.pointInTime = pointInTime
    self.expiresAt = expiresAt
    self.endedAt = endedAt
    self.outcome = outcome
    self.error = error
    self.createdAt = createdAt
    self.revision = revision
  }

  /// The checkpoints that a success sets.
  package var newCheckpoints: [FleecingCheckpoint] {
    images.compactMap { part in
      guard let checkpoint, let pointInTime, let tracked = part.tracked else { return nil }
      return FleecingCheckpoint(
        id: checkpoint, image: part.image, tracker: tracker, label: label, tracked: tracked, pointInTime: pointInTime)
    }
  }

  package func part(of image: ImageID) -> Part? { images.first { $0.image == image } }

  /// What NBD clients ask for.
  package func exportName(of part: Part) -> String { "\(part.imageName)@\(id)" }

  /// What a client is given to connect.
  package func uri(of part: Part) -> String { listen.uri(of: exportName(of: part), usesTLS: tls != nil) }
}
