import BlockCore
import EventLoops
import Locks
import Model
import NBD
import Qcow2

/// An export that clients can use.
struct ServedExport: Sendable {
  let export: NBDExport
  /// With the contexts that clients are offered now.
  var order: ExportOrder
  /// As the listeners know it.
  let address: ExportAddress
  let source: OpenExportSource
}

/// What an export serves.
struct OpenExportSource: Sendable {
  let device: any BlockDevice
  /// The device's home.
  let loop: EventLoop
  /// The attached image whose slot the device is, and its use; nil where the device was opened for this export alone.
  let joined: (image: ImageID, use: ImageUse)?
  /// What has the bitmaps that it may show.
  var bitmaps: Bitmaps?

  enum Bitmaps: Sendable {
    case live(ImageBitmaps)
    case atRest(Qcow2Image)
  }
}

/// The exports that are served, by their ids.
///
/// An export goes from absent to opening, to served, to leaving, and is absent again, or served after all.
final class ServedExports: Sendable {
  private enum Stage {
    case opening(ExportOrder)
    case served(ServedExport)
    case leaving(ServedExport)
  }

  private let stages = Lock<[ExportID: Stage]>([:])

  var ids: [ExportID] { stages.withLock { Array($0.keys) } }

  /// Begins opening; false if the export is known already. From now on it holds its bitmaps.
  func reserve(_ order: ExportOrder) -> Bool {
    stages.withLock { stages in
      if stages[order.export] != nil { return false }
      stages[order.export] = .opening(order)
      return true
    }
  }

  /// Ends opening with success, or leaving with a refusal.
  func put(_ export: ServedExport, as id: ExportID) { stages.withLock { $0[id] = .served(export) } }

  /// Ends opening with failure, or leaving.
  func remove(_ id: ExportID) { stages.withLock { $0[id] = nil } }

  /// Nil if it isn't served, or another call takes it away.
  func beginLeaving(_ id: ExportID) -> ServedExport? {
    stages.withLock { stages in
      guard case .served(let export) = stages[id] else { return nil }
      stages[id] = .leaving(export)
      return export
    }
  }

  func served(_ id: ExportID) -> ServedExport? {
    stages.withLock { if case .served(let export) = $0[id] { export } else { nil } }
  }

  /// Has the export hold the bitmaps of the order from now on; nothing if it isn't served.
  func set(_ order: ExportOrder) {
    stages.withLock { stages in
      guard case .served(var export) = stages[order.export] else { return }
      export.order = order
      stages[order.export] = .served(export)
    }
  }

  /// The names of the exports that show a bitmap of an image, in order.
  func names(showing bitmap: BitmapName, of image: BitmapImage) -> [ResourceName] {
    let orders = stages.withLock { stages in
      stages.values.map { stage in
        switch stage {
        case .opening(let order): order
        case .served(let export), .leaving(let export): export.order
        }
      }
    }
    return orders.filter { $0.source.isOf(image) && $0.bitmaps.contains { $0.bitmap == bitmap } }.map(\.name).sorted()
  }

  func figures(of id: ExportID) -> ExportFigures? {
    let export = stages.withLock { stages -> NBDExport? in
      switch stages[id] {
      case .served(let served), .leaving(let served): served.export
      case .opening, nil: nil
      }
    }
    return export?.figures
  }

  /// Of the exports that joined an attached image.
  func figures(ofImage image: ImageID) -> [ExportFigures] {
    let exports = stages.withLock { stages in
      stages.values.compactMap { stage -> NBDExport? in
        switch stage {
        case .served(let served), .leaving(let served): served.source.joined?.image == image ? served.export : nil
        case .opening: nil
        }
      }
    }
    return exports.map(\.figures)
  }
}

extension ExportOrder.Source {
  fileprivate func isOf(_ image: BitmapImage) -> Bool {
    switch self {
    case .attachedImage(let id): id == image.id
    case .image(let location): location.source == image.location.source
    case .backup: false
    }
  }
}
