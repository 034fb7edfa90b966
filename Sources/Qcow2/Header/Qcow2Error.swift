import BlockCore

/// Why an image can't be opened, created or described.
package enum Qcow2Error: Error, Sendable {
  /// The file doesn't begin with the magic bytes "QFI\xfb".
  case notQcow2
  /// Only versions 2 and 3 exist.
  case unsupportedVersion(UInt32)
  /// The image uses what this implementation doesn't understand; the text names the feature.
  case unsupportedFeature(String)
  /// The image may be read, but not written; the text says why and what helps.
  case notWritable(String)
  /// The file contradicts the format; the text names the place.
  case damaged(String)
  /// The image can't be created with these options; the text says which and why.
  case invalidOption(String)
  /// The image names a backing file, and the opener gave none.
  case backingMissing(BackingReference)
  /// The backing file couldn't be opened.
  case backingFailed(BackingReference, any Error)
  /// The image's data lie in a file of their own, of this name, and the opener gave none.
  case dataFileMissing(String)
  /// The data file couldn't be opened.
  case dataFileFailed(String, any Error)
  /// More files are stacked than ``Qcow2Image/maximumBackingDepth``.
  case chainTooDeep(Int)
  /// The L1 tables of the stacked files take more than ``Qcow2Image/maximumChainTableByteCount``.
  case tablesTooLarge(Int)
  /// The device under the image failed.
  case device(BlockError)
}

extension Qcow2Error: CustomStringConvertible {
  package var description: String {
    switch self {
    case .notQcow2: "not a qcow2 image: the magic bytes are missing"
    case .unsupportedVersion(let version): "qcow2 version \(version) is not supported (2 and 3 are)"
    case .unsupportedFeature(let feature): "the qcow2 image uses a feature that is not supported: \(feature)"
    case .notWritable(let reason): "the qcow2 image can only be opened read-only: \(reason)"
    case .damaged(let place): "the qcow2 image is damaged: \(place)"
    case .invalidOption(let reason): "the qcow2 image can't be created: \(reason)"
    case .backingMissing(let backing): "the qcow2 image needs its backing file \"\(backing.name)\""
    case .backingFailed(let backing, let cause): "the backing file \"\(backing.name)\" can't be opened: \(cause)"
    case .dataFileMissing(let name): "the qcow2 image needs its external data file \"\(name)\""
    case .dataFileFailed(let name, let cause): "the external data file \"\(name)\" can't be opened: \(cause)"
    case .chainTooDeep(let limit): "more than \(limit) files are stacked as backing files"
    case .tablesTooLarge(let limit): "the L1 tables of the stacked files take more than \(limit >> 20) MiB together"
    case .device(let error): "\(error)"
    }
  }
}
