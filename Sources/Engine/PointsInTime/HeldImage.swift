import BlockCore
import BlockFilters
import EventLoops
import Model

/// The image of a backup, and how the bytes of its moment are read from then on.
enum HeldImage: Sendable {
  /// Open with its locks: nothing changes it until it is closed.
  case atRest(OpenImage)
  /// Open for its guest, which goes on changing it: a view has its bytes of the moment.
  case attached(AttachedPoint)

  /// Its files and its format.
  var image: OpenImage {
    switch self {
    case .atRest(let image): image
    case .attached(let point): point.graph.image
    }
  }

  var name: String { image.name }

  /// Bytes of the disk. On its loop.
  var byteCount: UInt64 { image.device.byteCount }

  /// What is read, from the moment on.
  var source: any BlockDevice {
    switch self {
    case .atRest(let image): return image.device
    case .attached(let point):
      guard let view = point.view else { preconditionFailure("an image is read before its moment") }
      return view
    }
  }

  /// Of an attached one, from the moment on.
  var view: PointInTimeView? { if case .attached(let point) = self { point.view } else { nil } }

  /// Bytes of the moment that won't be read any more: the guest's changes of them cost nothing from now on.
  func release(_ range: ByteRange) {
    view?.release([range])
  }

  /// What records its changes; nil of one at rest.
  var liveBitmaps: ImageBitmaps? {
    if case .attached(let point) = self { point.graph.bitmaps } else { nil }
  }

  var consistency: Consistency {
    switch self {
    case .atRest: .offline
    case .attached: .crash
    }
  }

  /// What it has cost the guest, once all was read; nil at rest.
  var guestImpact: GuestImpact? {
    if case .attached(let point) = self { point.guestImpact } else { nil }
  }

  /// The pace of its copying that the guest asks for; nil where nothing does.
  func pace(within budget: GuestLatencyBudget?, control: any JobControl) -> (any CopyPace)? {
    guard case .attached(let point) = self, let budget else { return nil }
    return point.pace(within: budget, control: control)
  }

  /// Lets the image go. On its loop.
  nonisolated(nonsending)
    func letGo() async
  {
    switch self {
    case .atRest(let image): try? await image.device.close()
    case .attached(let point): await point.end()
    }
  }
}
