/// Told of the error that latched a device, once, on the device's loop. It must not wait.
package typealias LatchReport = @Sendable (BlockError) -> Void

/// One I/O failure: what kind, in which operation, on which bytes, and why.
package struct BlockError: Error, Hashable, Sendable {
  package enum Kind: Hashable, Sendable {
    /// The system call failed with this errno.
    case io(errno: Int32)
    /// The storage behind the device is full.
    case noSpace
    /// The request reaches past the end of the device.
    case outOfRange
    /// Offset or length don't fit the device's alignment.
    case misaligned
    case readOnly
    /// The device can't do this at all.
    case notSupported
    /// Doing it fast was asked for and isn't possible (nothing was written).
    case notFast
    /// What was read contradicts the format; the text names the place.
    case corrupt(String)
    /// Another process holds a conflicting lock; the text names the permission and what to do.
    case locked(String)
    /// An earlier write ended in an unknown state: the device refuses everything until it is reopened.
    case latchedFailed
    /// A view of an earlier moment can't tell any more what was there; the cause says why.
    case pointInTimeLost
    case closed
    case cancelled
  }

  package enum Operation: String, Hashable, Sendable {
    case open, read, write, writeZeroes, discard, flush, blockStatus, resize, close
  }

  package var kind: Kind
  package var operation: Operation
  package var range: ByteRange?
  /// What the device was doing, in words, e.g. the table it tried to load.
  package var cause: String?

  package init(_ kind: Kind, _ operation: Operation, _ range: ByteRange? = nil, cause: String? = nil) {
    self.kind = kind
    self.operation = operation
    self.range = range
    self.cause = cause
  }

  /// The error for a failed system call: ENOSPC and EDQUOT become `noSpace`, ECANCELED `cancelled`.
  package init(errno code: Int32, _ operation: Operation, _ range: ByteRange? = nil, cause: String? = nil) {
    self.init(Kind(errno: code), operation, range, cause: cause)
  }
}
