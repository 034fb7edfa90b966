import CLiburing
import Glibc

/// How loops talk to the kernel.
package enum IOBackend: String, Sendable, CaseIterable {
  /// Files, sockets and wake-ups go through one ring for each loop.
  case ioUring = "io_uring"
  /// Sockets through epoll, files through a pool of threads: where io_uring is not permitted.
  case epoll

  /// What the operator asks for (key `ioBackend`).
  package enum Choice: Hashable, Sendable {
    /// io_uring where the kernel permits it, else epoll.
    case automatic
    /// This one, or the start fails.
    case forced(IOBackend)
  }

  /// Whether this process may use io_uring with all that the loops need; the text says why not.
  package static func refusalOfIOUring() -> String? {
    do throws(SystemError) {
      _ = try RingPort.probe()
      return nil
    } catch {
      return switch error.code {
      case ENOSYS: "io_uring is not available: the kernel lacks it or a filter hides it"
      case EPERM, EACCES: "io_uring is not permitted here (a container's filter, or kernel.io_uring_disabled)"
      case EOPNOTSUPP: "io_uring lacks \(error.detail ?? "an operation")"
      default: "io_uring can't start: \(error)"
      }
    }
  }
}
