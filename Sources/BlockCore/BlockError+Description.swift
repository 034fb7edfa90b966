import Glibc

extension BlockError.Kind {
  init(errno code: Int32) {
    self =
      switch code {
      case ENOSPC, EDQUOT: .noSpace
      case ECANCELED: .cancelled
      case EROFS: .readOnly
      case EOPNOTSUPP: .notSupported
      default: .io(errno: code)
      }
  }
}

extension BlockError: CustomStringConvertible {
  package var description: String {
    var text = "\(operation.rawValue)"
    if let range { text += " of bytes \(range)" }
    text += ": \(kind)"
    if let cause { text += " (\(cause))" }
    return text
  }
}

extension BlockError.Kind: CustomStringConvertible {
  package var description: String {
    switch self {
    case .io(let code): String(cString: strerror(code))
    case .noSpace: "no space left on the storage"
    case .outOfRange: "past the end of the device"
    case .misaligned: "not aligned to the device's block size"
    case .readOnly: "the device is read-only"
    case .notSupported: "the device does not support this"
    case .notFast: "not possible without writing zeroes"
    case .corrupt(let place): "damaged: \(place)"
    case .locked(let holder): holder
    case .latchedFailed: "refused since an earlier write ended in an unknown state; reopen the image"
    case .pointInTimeLost: "the point in time is lost"
    case .closed: "the device is closed"
    case .cancelled: "cancelled"
    }
  }
}
