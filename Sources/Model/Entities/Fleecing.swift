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

  /// One image's part.
  package struct Part: Hashable, Sendable, Codable {
    package var image: ImageID
    /// As it was when the fleecing was asked for.
    package var imageName: ResourceName
    /// Bytes of the disk.
    package var virtualSize: UInt64

    package init(image: ImageID, imageName: ResourceName, virtualSize: UInt64) {
      self.image = image
      self.imageName = imageName
      self.virtualSize = virtualSize
    }
  }

  package let id: FleecingID
  /// In the order of the request.
  package var images: [Part]
  package var listen: ExportAddress
  package var tls: ExportTLS?
  package var release: Release
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
    release: Release = .none, state: State = .starting, pointInTime: Date? = nil, expiresAt: Date? = nil,
    endedAt: Date? = nil, outcome: Outcome? = nil, error: ProblemDetails? = nil, createdAt: Date, revision: Int = 1
  ) {
    self.id = id
    self.images = images
    self.listen = listen
    self.tls = tls
    self.release = release
    self.state = state
    self.pointInTime = pointInTime
    self.expiresAt = expiresAt
    self.endedAt = endedAt
    self.outcome = outcome
    self.error = error
    self.createdAt = createdAt
    self.revision = revision
  }

  package func part(of image: ImageID) -> Part? { images.first { $0.image == image } }

  /// What NBD clients ask for.
  package func exportName(of part: Part) -> String { "\(part.imageName)@\(id)" }

  /// What a client is given to connect.
  package func uri(of part: Part) -> String { listen.uri(of: exportName(of: part), usesTLS: tls != nil) }
}
