import Glibc

/// A system call that failed: its errno, and in words what was wrong where errno alone doesn't say it.
package struct SystemError: Error, Hashable, Sendable {
  /// The errno, positive.
  package let code: Int32
  package let detail: String?

  package init(_ code: Int32, _ detail: String? = nil) {
    self.code = code
    self.detail = detail
  }

  /// The errno that the last failed call on this thread left.
  static var last: SystemError { SystemError(errno) }

  /// The wait was given up: its task was cancelled, its socket closed, or its loop is shutting down.
  package static let cancelled = SystemError(ECANCELED)
  /// The loop or its group was shut down.
  package static let shutDown = SystemError(ESHUTDOWN, "the event loops are shut down")

  package var isCancelled: Bool { code == ECANCELED }
}

extension SystemError: CustomStringConvertible {
  package var description: String {
    let text = String(cString: strerror(code))
    return detail.map { "\(text): \($0)" } ?? text
  }
}
