import Locks
import Model
import RawFile

/// Who uses an image, in the words of refusals.
package enum ImageUser: Hashable, Sendable {
  /// The image itself, held open for its guest, by its path.
  case attachment(String)
  case export(ResourceName)
  case fleecing(FleecingID)
  /// E.g. "backup".
  case job(String, JobID)
  /// One call, e.g. "a request for its extents".
  case request(String)

  package var words: String {
    switch self {
    case .attachment(let path): "the attached image \(path)"
    case .export(let name): "the export '\(name)'"
    case .fleecing(let id): "the fleecing \(id)"
    case .job(let kind, let job): "the \(kind) job \(job)"
    case .request(let words): words
    }
  }
}

/// One use of an image, from its opening to its closing; shared by the claims on all its files.
package final class ImageUse: Sendable {
  package let user: ImageUser
  package let need: ImageNeed
  private let passing: Lock<Bool>

  package init(_ user: ImageUser, needs need: ImageNeed, isPassing: Bool = false) {
    self.user = user
    self.need = need
    passing = Lock(isPassing)
  }

  /// Whether it ends soon by itself, so that others wait for it.
  package var isPassing: Bool {
    get { passing.withLock { $0 } }
    set { passing.withLock { $0 = newValue } }
  }
}

/// How the changes are recorded that are made through an open image. Whoever opens one to be written has to say it.
package enum Tracking: Hashable, Sendable {
  /// Every bitmap of the image records them that is enabled, see ``ImageBitmaps``.
  case recorded
  /// What the guest sees doesn't change.
  case unchanged(because: String)
}
