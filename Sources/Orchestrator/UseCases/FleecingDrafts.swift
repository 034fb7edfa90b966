import Foundation
import Model

/// A fleecing to be begun.
package struct FleecingDraft: Hashable, Sendable {
  package var images: [Reference<Image>]
  package var listen: ExportAddress
  package var tls: ExportTLS?
  package var release: Fleecing.Release
  package var access: Fleecing.Access
  package var since: Fleecing.Base?
  package var tracker: TrackerName
  /// Seconds from the moment to the expiry.
  package var lifetime: Int

  package static let lifetimes = 1...7 * 24 * 60 * 60
  package static let standardLifetime = 60 * 60

  package init(
    images: [Reference<Image>], listen: ExportAddress, tls: ExportTLS? = nil, release: Fleecing.Release = .none,
    access: Fleecing.Access = .all, since: Fleecing.Base? = nil, tracker: TrackerName = Fleecing.standardTracker,
    lifetime: Int = FleecingDraft.standardLifetime
  ) {
    self.images = images
    self.listen = listen
    self.tls = tls
    self.release = release
    self.access = access
    self.since = since
    self.tracker = tracker
    self.lifetime = lifetime
  }
}

/// A fleecing with what it does right now.
package struct FleecingView: Hashable, Sendable {
  package var fleecing: Fleecing
  /// Nil if it isn't served.
  package var activity: FleecingActivity?
}
