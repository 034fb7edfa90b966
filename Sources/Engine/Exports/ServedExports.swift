import BlockCore
import EventLoops
import Locks
import Model
import NBD

/// An export that clients can use.
struct ServedExport: Sendable {
  let export: NBDExport
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
}

/// The exports that are served, by their ids.
///
/// An export goes from absent to opening, to served, to leaving, and is absent again, or served after all.
final class ServedExports: Sendable {
  private enum Stage {
    case opening
    case served(ServedExport)
    case leaving(ServedExport)
  }

  private let stages = Lock<[ExportID: Stage]>([:])

  var ids: [ExportID] { stages.withLock { Array($0.keys) } }

  /// Begins opening; false if the id is known already.
  func reserve(_ id: ExportID) -> Bool {
    stages.withLock { stages in
      if stages[id] != nil { return false }
      stages[id] = .opening
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

  func figures(of id: ExportID) -> ExportFigures? {
    let export = stages.withLock { stages -> NBDExport? in
      switch stages[id] {
      case .served(let served), .leaving(let served): served.export
      case .opening, nil: nil
      }
    }
    return export?.figures
  }
}
