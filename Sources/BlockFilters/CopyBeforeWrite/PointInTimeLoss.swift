import BlockCore

/// Why a point in time can't be read any more.
package enum PointInTimeLoss: Hashable, Sendable {
  /// Bytes that were about to be changed couldn't be read.
  case sourceFailed(BlockError)
  /// Kept bytes couldn't be stored, or read again.
  case storeFailed(BlockError)
  /// Neither memory nor temp had room.
  case storeFull
  /// A change would have waited longer than that for old bytes to be kept.
  case timedOut(Duration)
  case resized
  /// The image was closed, or its owner ended the point.
  case ended

  package func error(_ operation: BlockError.Operation, _ range: ByteRange? = nil) -> BlockError {
    BlockError(.pointInTimeLost, operation, range, cause: description)
  }
}

extension PointInTimeLoss: CustomStringConvertible {
  package var description: String {
    switch self {
    case .sourceFailed(let error): "bytes that were about to change couldn't be read: \(error)"
    case .storeFailed(let error): "kept bytes couldn't be stored or read: \(error)"
    case .storeFull: "there was no room left for the bytes that changed"
    case .timedOut(let limit): "keeping bytes that were about to change took longer than \(limit)"
    case .resized: "the disk's size changed"
    case .ended: "it was ended"
    }
  }
}
