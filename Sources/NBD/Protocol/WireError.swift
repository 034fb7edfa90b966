import BlockCore
import Glibc

/// Errors on the wire (proto.md, “Error values”): these and no others.
package enum WireError: UInt32, Hashable, Sendable {
  case permission = 1
  case io = 5
  case noMemory = 12
  case invalid = 22
  case noSpace = 28
  case overflow = 75
  case notSupported = 95
  case shutdown = 108

  /// What a client makes of an error value: an unexpected one counts as EINVAL.
  package init(onTheWire value: UInt32) { self = WireError(rawValue: value) ?? .invalid }

  /// What a server tells of a failed request.
  package init(_ error: BlockError) {
    self =
      switch error.kind {
      case .noSpace: .noSpace
      case .readOnly: .permission
      case .notFast: .notSupported
      case .misaligned, .notSupported: .invalid
      case .outOfRange: error.operation == .write || error.operation == .writeZeroes ? .noSpace : .invalid
      case .closed, .cancelled: .shutdown
      // The guest's system stops at a full disk rather than failing the write for good.
      case .io(errno: EFBIG): .noSpace
      case .io(let code) where code == EPERM || code == EACCES: .permission
      case .io, .corrupt, .locked, .latchedFailed, .pointInTimeLost: .io
      }
  }

  /// What a client's device tells of a request that the server refused.
  package func blockErrorKind(for operation: BlockError.Operation) -> BlockError.Kind {
    switch self {
    case .permission: .readOnly
    case .io: .io(errno: EIO)
    case .noMemory: .io(errno: ENOMEM)
    case .invalid: .io(errno: EINVAL)
    case .noSpace: .noSpace
    case .overflow: .io(errno: EOVERFLOW)
    case .notSupported: operation == .writeZeroes ? .notFast : .notSupported
    case .shutdown: .io(errno: ESHUTDOWN)
    }
  }
}
